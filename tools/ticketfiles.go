package tools

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/keylock"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Files are the files of sandboxes, for whoever has a ticket.
type Files struct {
	Open Source

	locks keylock.Locks // by ticket: parts come one after the other

	mu      sync.Mutex
	uploads map[string]upload // by ticket, until it expires
}

// upload is what is known of a ticket's upload besides what is there of it, so
// that a client that did not hear the answer can ask again.
type upload struct {
	total   int64  // bytes of the whole file
	done    bool   // it has taken its place
	last    int64  // where the last part began, if it was in parts
	sum     string // SHA-256 of that
	expires time.Time
}

// use gives fn the channel to a ticket's sandbox.
func (f *Files) use(ctx context.Context, t auth.Ticket, fn func(context.Context, guest.Conn) error) error {
	m, err := f.Open(ctx)
	if err != nil {
		return sessions.Errorf(sessions.Unavailable, "this AgentLab is not usable until its operator mends it")
	}
	return m.Use(ctx, t.Sandbox, bootWait(0), func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
		if err := fn(ctx, conn); err != nil {
			return fileError(ctx, conn, t.Path, err)
		}
		return nil
	})
}

// Explain returns the class of an error of Files, and what may be shown of it.
func Explain(err error) (sessions.Kind, string) { return explain(err) }

// Download gives serve the ticket's file: its size, its time of change, and a
// reader that seeks.
//
// Errors: also those of reading, before those of serve. The context that serve
// gets ends with the sandbox.
func (f *Files) Download(ctx context.Context, t auth.Ticket, serve func(ctx context.Context, size int64, changed time.Time, r io.ReadSeeker) error) error {
	return f.use(ctx, t, func(ctx context.Context, conn guest.Conn) error {
		r, info, err := conn.ReadFile(ctx, t.Path, 0, 0)
		if err != nil {
			return err
		}
		_ = r.Close()
		seeker := &seeker{ctx: ctx, conn: conn, path: t.Path, size: info.Size}
		defer seeker.close()
		if err := serve(ctx, info.Size, info.MTime, seeker); seeker.err == nil {
			return err
		}
		return seeker.err
	})
}

// seeker reads a file of a guest from wherever it is wanted.
type seeker struct {
	ctx  context.Context
	conn guest.Conn
	path string
	size int64
	off  int64
	r    io.ReadCloser // open at off; nil if it must be opened
	err  error         // of reading
}

func (s *seeker) close() {
	if s.r != nil {
		_ = s.r.Close()
		s.r = nil
	}
}

// Seek is part of io.Seeker.
func (s *seeker) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.off
	case io.SeekEnd:
		off += s.size
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	if off != s.off {
		s.close()
	}
	s.off = off
	return off, nil
}

// Read is part of io.Reader. It stops at the size that was told.
func (s *seeker) Read(p []byte) (int, error) {
	if s.off >= s.size {
		return 0, io.EOF
	}
	if s.r == nil {
		r, _, err := s.conn.ReadFile(s.ctx, s.path, s.off, s.size-s.off)
		if err != nil {
			s.err = err
			return 0, err
		}
		s.r = r
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.size-s.off)])
	s.off += int64(n)
	switch {
	case errors.Is(err, io.EOF) && s.off < s.size: // it was cut off meanwhile
		s.err = guest.ErrChanged
	case err != nil && !errors.Is(err, io.EOF):
		s.err = err
	}
	return n, err
}

// Body opens what is uploaded. Its reader must fail when ctx ends, which it
// does with the sandbox: who waits for a client would hold that up.
type Body func(ctx context.Context) io.Reader

// Upload writes the ticket's file: all of it, or nothing.
func (f *Files) Upload(ctx context.Context, t auth.Ticket, body Body) (bytes int64, err error) {
	unlock, err := f.locks.Lock(ctx, t.ID)
	if err != nil {
		return 0, err
	}
	defer unlock()
	err = f.use(ctx, t, func(ctx context.Context, conn guest.Conn) error {
		wrote, err := conn.WriteFile(ctx, t.Path, body(ctx), guest.WriteOptions{})
		if err != nil {
			return err
		}
		bytes = wrote.Bytes
		known, begun := f.upload(t)
		f.note(t, upload{total: bytes, done: true})
		if begun && !known.done { // in parts, which it overtook
			return inShell(ctx, conn, guest.Streams{}, `rm -f -- "$1"`, partial(t))
		}
		return nil
	})
	return bytes, err
}

// Part is a piece of a file that is uploaded in pieces.
type Part struct {
	From   int64 // where it begins; negative only asks how much is there
	Length int64
	Total  int64 // bytes of the whole file
}

// ErrGap means that the part does not begin where what is there ends.
var ErrGap = errors.New("the part does not continue what is there")

// Append adds a part to what is there of the ticket's file, and returns how
// much that is then. When it is all, the file takes its place and done is true;
// to ask again, and to send the same last part again, then says so again.
//
// Errors: ErrGap, also if another part came meanwhile, and those of the body.
// Some of what that gave until it failed may be there then.
func (f *Files) Append(ctx context.Context, t auth.Ticket, p Part, body Body) (have int64, done bool, err error) {
	unlock, err := f.locks.Lock(ctx, t.ID)
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	err = f.use(ctx, t, func(ctx context.Context, conn guest.Conn) error {
		known, begun := f.upload(t)
		switch {
		case begun && known.total != p.Total:
			return sessions.Errorf(sessions.Conflict, "the file has %d bytes as an earlier request said, and %d as this one says; call upload_url to send another", known.total, p.Total)
		case known.done:
			if again, err := known.again(p, func() io.Reader { return body(ctx) }); again || err != nil {
				have, done = known.total, again
				return err
			}
			return sessions.Errorf(sessions.Conflict, "all %d bytes are there already; call upload_url to send another file", known.total)
		}
		var err error
		if have, err = size(ctx, conn, partial(t)); err != nil || p.From < 0 {
			return err
		}
		if p.From != have {
			return ErrGap
		}
		f.note(t, upload{total: p.Total})
		sum := sha256.New()
		wrote, err := conn.WriteFile(ctx, partial(t), io.TeeReader(body(ctx), sum), guest.WriteOptions{Append: true})
		have += wrote.Bytes
		if err != nil || have < p.Total {
			return err
		}
		if err := inShell(ctx, conn, guest.Streams{}, `if [ -d "$2" ]; then echo "$2 is a directory" >&2; exit 1; fi; mv -f -- "$1" "$2"`, partial(t), t.Path); err != nil {
			return err
		}
		f.note(t, upload{total: p.Total, done: true, last: p.From, sum: string(sum.Sum(nil))})
		done = true
		return nil
	})
	return have, done, err
}

// again says whether what is asked of an upload that is done only repeats how
// that became so: asks, or sends the last part again. Another part, or that of
// another sender, does not.
func (u upload) again(p Part, body func() io.Reader) (bool, error) {
	if p.From < 0 {
		return true, nil
	}
	if u.sum == "" || p.From != u.last {
		return false, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, body()); err != nil {
		return false, err
	}
	return string(sum.Sum(nil)) == u.sum, nil
}

// partial is where the parts of a ticket's file are until they are all there.
func partial(t auth.Ticket) string {
	return path.Join(path.Dir(t.Path), ".agentlab-"+strings.ToLower(t.ID[:min(len(t.ID), 12)]))
}

// upload returns what is known of a ticket's; ok is that it has begun.
func (f *Files) upload(t auth.Ticket) (u upload, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok = f.uploads[t.ID]
	return u, ok
}

// note remembers what is known of a ticket's upload, and forgets those of
// tickets that are over.
func (f *Files) note(t auth.Ticket, u upload) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.uploads == nil {
		f.uploads = map[string]upload{}
	}
	maps.DeleteFunc(f.uploads, func(_ string, u upload) bool { return u.expires.Before(time.Now()) })
	u.expires = t.Expires
	f.uploads[t.ID] = u
}

// size is that of a file, 0 if there is none.
func size(ctx context.Context, conn guest.Conn, name string) (int64, error) {
	r, info, err := conn.ReadFile(ctx, name, 0, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size, r.Close()
}
