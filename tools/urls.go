package tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/internal/keylock"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Linker makes the URL where a ticket can be used.
type Linker func(auth.Ticket) (url string, err error)

type linkerKey struct{}

// WithLinker returns a context of a caller that reaches us over HTTP, where
// files can be moved by URL. Without it, the tools for that are not offered.
func WithLinker(ctx context.Context, link Linker) context.Context {
	return context.WithValue(ctx, linkerKey{}, link)
}

func linker(ctx context.Context) Linker {
	link, _ := ctx.Value(linkerKey{}).(Linker)
	return link
}

func hasLinker(ctx context.Context) bool { return linker(ctx) != nil }

// MaxTransfer is how many bytes a file has at most that is moved by URL.
const MaxTransfer = hosttree.MaxBytes

type urlIn struct {
	target
	Path string `arg:"path,required" bytes:"4095" doc:"The file in the sandbox"`
	TTL  int    `arg:"ttl_seconds" default:"900" min:"10" max:"3600" doc:"How long the URL is good"`
}

type urlOut struct {
	URL       string    `json:"url"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	ExpiresAt time.Time `json:"expires_at"`
	MaxBytes  int64     `json:"max_bytes,omitempty"`
	Bytes     *int64    `json:"bytes,omitempty"`
}

func (s *service) uploadURL() Tool {
	return define(s, Tool{
		Name: "upload_url", Title: "URL to upload a file",
		Scope:       sessions.ScopeWrite,
		Offered:     hasLinker,
		Description: "A URL to which anybody can PUT a file for a sandbox, without a token, until it expires: curl -T FILE URL. For what is too large for write_file.",
		Output:      outputOf[urlOut](),
		Annotations: Annotations{Destructive: true},
		Meta:        hint("upload a large local file by HTTP"),
		Doing:       "making the URL",
	}, func(ctx context.Context, m *sessions.Manager, in urlIn) (Result, error) {
		return s.url(ctx, m, in, true)
	})
}

func (s *service) downloadURL() Tool {
	return define(s, Tool{
		Name: "download_url", Title: "URL to download a file",
		Scope:       sessions.ScopeRead,
		Offered:     hasLinker,
		Description: "A URL from which anybody can GET a file of a sandbox, without a token, until it expires; ranges work. For what is too large for read_file.",
		Output:      outputOf[urlOut](),
		Annotations: Annotations{ReadOnly: true},
		Meta:        hint("download a large file by HTTP"),
		Doing:       "making the URL",
	}, func(ctx context.Context, m *sessions.Manager, in urlIn) (Result, error) {
		return s.url(ctx, m, in, false)
	})
}

func (s *service) url(ctx context.Context, m *sessions.Manager, in urlIn, write bool) (Result, error) {
	who, _ := sessions.PrincipalFrom(ctx)
	out := urlOut{Method: "GET", ExpiresAt: time.Now().Add(seconds(in.TTL)).UTC().Truncate(time.Second)}
	if write {
		out.Method, out.MaxBytes = "PUT", MaxTransfer
	}
	err := m.Use(ctx, in.SandboxID, "url", bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
		out.Path = absolute(sb, in.Path)
		r, info, err := conn.ReadFile(ctx, out.Path, 0, 0)
		switch {
		case err == nil:
			_ = r.Close()
			if !write {
				out.Bytes = &info.Size
			}
		case !write || !errors.Is(err, fs.ErrNotExist):
			return fileError(ctx, conn, out.Path, err)
		}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	out.URL, err = linker(ctx)(auth.Ticket{Principal: who.Name, Sandbox: in.SandboxID, Path: out.Path, Write: write, Expires: out.ExpiresAt})
	if err != nil {
		return Result{}, err
	}
	return structured(out, fmt.Sprintf("%s %s\nfor %s, until %s", out.Method, out.URL, quoted(out.Path), clock(out.ExpiresAt))), nil
}

// Files are the files of sandboxes, for whoever has a ticket.
type Files struct {
	Open Source

	locks keylock.Locks // by ticket: parts come one after the other
}

// use gives fn the channel to a ticket's sandbox.
func (f *Files) use(ctx context.Context, t auth.Ticket, action string, fn func(context.Context, guest.Conn) error) error {
	m, err := f.Open(ctx)
	if err != nil {
		return sessions.Errorf(sessions.Unavailable, "this AgentLab is not usable until its operator mends it")
	}
	return m.Use(ctx, t.Sandbox, action, bootWait(0), func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
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
func (f *Files) Download(ctx context.Context, t auth.Ticket, serve func(size int64, changed time.Time, r io.ReadSeeker)) error {
	return f.use(ctx, t, "download", func(ctx context.Context, conn guest.Conn) error {
		r, info, err := conn.ReadFile(ctx, t.Path, 0, 0)
		if err != nil {
			return err
		}
		_ = r.Close()
		seeker := &seeker{ctx: ctx, conn: conn, path: t.Path, size: info.Size}
		defer seeker.close()
		serve(info.Size, info.MTime, seeker)
		return nil
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
			return 0, err
		}
		s.r = r
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.size-s.off)])
	s.off += int64(n)
	return n, err
}

// Upload writes the ticket's file from r: all of it, or nothing.
func (f *Files) Upload(ctx context.Context, t auth.Ticket, r io.Reader) (bytes int64, err error) {
	unlock, err := f.locks.Lock(ctx, t.ID)
	if err != nil {
		return 0, err
	}
	defer unlock()
	err = f.use(ctx, t, "upload", func(ctx context.Context, conn guest.Conn) error {
		wrote, err := conn.WriteFile(ctx, t.Path, r, guest.WriteOptions{})
		bytes = wrote.Bytes
		return err
	})
	return bytes, err
}

// Part is a piece of a file that is uploaded in pieces.
type Part struct {
	From  int64 // where it begins; negative only asks how much is there
	Total int64 // bytes of the whole file
}

// ErrGap means that the part does not begin where what is there ends.
var ErrGap = errors.New("the part does not continue what is there")

// Append adds a part to what is there of the ticket's file, and returns how
// much that is then. When it is all, the file takes its place.
//
// Errors: ErrGap, also if another part came meanwhile, and those of r. Some of
// what r gave until it failed may be there then.
func (f *Files) Append(ctx context.Context, t auth.Ticket, p Part, r io.Reader) (have int64, err error) {
	unlock, err := f.locks.Lock(ctx, t.ID)
	if err != nil {
		return 0, err
	}
	defer unlock()
	err = f.use(ctx, t, "upload", func(ctx context.Context, conn guest.Conn) error {
		temp := path.Join(path.Dir(t.Path), ".agentlab-"+strings.ToLower(t.ID[:min(len(t.ID), 12)]))
		var err error
		if have, err = size(ctx, conn, temp); err != nil || p.From < 0 {
			return err
		}
		if p.From != have {
			return ErrGap
		}
		wrote, err := conn.WriteFile(ctx, temp, r, guest.WriteOptions{Append: true})
		have += wrote.Bytes
		if err != nil || have < p.Total {
			return err
		}
		return inShell(ctx, conn, guest.Streams{}, `if [ -d "$2" ]; then echo "$2 is a directory" >&2; exit 1; fi; mv -f -- "$1" "$2"`, temp, t.Path)
	})
	return have, err
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
