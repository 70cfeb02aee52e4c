package sshguest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// ReadFile implements guest.Conn. The end of ctx also ends the reader.
func (c *Conn) ReadFile(ctx context.Context, path string, off, n int64) (io.ReadCloser, guest.FileInfo, error) {
	s, err := c.open(ctx, wire.Read, wire.ReadRequest{Path: wire.Bytes(path), Off: off, N: n})
	if err != nil {
		return nil, guest.FileInfo{}, reason(ctx, err)
	}
	info, err := s.begin(ctx)
	if err != nil {
		s.close()
		return nil, guest.FileInfo{}, err
	}
	info.Path = path
	return &fileReader{ctx: ctx, s: s, n: n}, info, nil
}

// begin reads the description of the file that is to come.
func (s *stream) begin(ctx context.Context) (guest.FileInfo, error) {
	kind, err := s.in.Next()
	if err != nil {
		return guest.FileInfo{}, s.broken(ctx, err)
	}
	switch kind {
	case wire.Begin:
		var fi wire.FileInfo
		if err := s.in.JSON(&fi); err != nil {
			return guest.FileInfo{}, s.broken(ctx, err)
		}
		return fi.Guest(), nil
	case wire.End:
		if _, err := s.end(ctx); err != nil {
			return guest.FileInfo{}, err
		}
	default:
	}
	return guest.FileInfo{}, errLies("a file without a description")
}

// fileReader reads the content of a file.
type fileReader struct {
	ctx context.Context
	n   int64 // at most that many; negative is any number

	closing sync.Once
	mu      sync.Mutex // held while reading
	s       *stream
	rest    []byte // of a piece
	total   int64
	err     error // what is left to say
}

// piece returns what has come next, valid until the next call.
func (r *fileReader) piece() ([]byte, error) {
	for r.err == nil {
		b, err := r.s.in.Piece()
		if err == nil {
			if r.total += int64(len(b)); r.n >= 0 && r.total > r.n {
				r.err = errLies("more of a file than asked for")
				break
			}
			return b, nil
		}
		if !errors.Is(err, io.EOF) {
			r.err = r.s.broken(r.ctx, err)
			break
		}
		kind, err := r.s.in.Next()
		switch {
		case err != nil:
			r.err = r.s.broken(r.ctx, err)
		case kind == wire.End:
			if _, r.err = r.s.end(r.ctx); r.err == nil {
				r.err = io.EOF
			}
		case kind != wire.Data:
			r.err = errLies("not the content of a file")
		}
	}
	return nil, r.err
}

// Read implements io.Reader.
func (r *fileReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	if len(r.rest) == 0 {
		var err error
		if r.rest, err = r.piece(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *fileReader) WriteTo(w io.Writer) (total int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if len(r.rest) > 0 {
			n, err := w.Write(r.rest)
			r.rest = r.rest[n:]
			if total += int64(n); err != nil {
				return total, err
			}
		}
		if r.rest, err = r.piece(); errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close ends the reading, also one that is under way.
func (r *fileReader) Close() error {
	r.closing.Do(func() {
		_ = r.s.nc.Close() // so that a reader lets go of the lock
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rest, r.err = nil, fs.ErrClosed
		r.s.close()
	})
	return nil
}

// WriteFile implements guest.Conn.
func (c *Conn) WriteFile(ctx context.Context, path string, r io.Reader, opt guest.WriteOptions) (guest.WriteResult, error) {
	req := wire.WriteRequest{Path: wire.Bytes(path), Append: opt.Append, Mode: opt.Mode}
	if opt.Unless != nil {
		fi := wire.FromFileInfo(*opt.Unless)
		req.Unless = &fi
	}
	s, err := c.open(ctx, wire.Write, req)
	if err != nil {
		return guest.WriteResult{}, reason(ctx, err)
	}
	defer s.close()
	src := &source{r: r}
	defer src.abandon()
	go func() {
		if s.send(ctx, src); src.failed() != nil {
			s.breakOff(c.cfg.DialTimeout)
		}
	}()
	kind, err := s.in.Next()
	if failed := src.failed(); failed != nil {
		return guest.WriteResult{}, fmt.Errorf("write %s: %w", path, failed)
	}
	if err != nil {
		return guest.WriteResult{}, s.broken(ctx, err)
	}
	if kind != wire.End {
		return guest.WriteResult{}, errLies("not the result of a write")
	}
	end, err := s.end(ctx)
	if err != nil {
		return guest.WriteResult{}, err
	}
	if end.Wrote == nil {
		return guest.WriteResult{}, errLies("a write without a result")
	}
	return *end.Wrote, nil
}

// send sends the content and then that it is all. The guest may refuse it
// before that: its last word says why.
func (s *stream) send(ctx context.Context, src *source) {
	piece := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	var total int64
	for {
		n, err := src.Read(piece[:])
		if n > 0 {
			if s.out.Send(wire.Data, piece[:n]) != nil {
				return
			}
			total += int64(n)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && ctx.Err() == nil {
			_ = s.out.Send(wire.Commit, strconv.AppendInt(nil, total, 10)) // fails with the stream
		}
		return
	}
}

// breakOff has the guest drop what is being written and say so, for which it has
// that long: who asks then what is there of a file must not be told of less than
// there will be.
func (s *stream) breakOff(wait time.Duration) {
	err := s.nc.SetReadDeadline(time.Now().Add(wait))
	if err == nil {
		err = s.out.Send(wire.Commit, []byte("-1")) // no number of bytes
	}
	if err != nil {
		_ = s.nc.Close()
	}
}

// source is the caller's reader, which is not read any more after abandon.
type source struct {
	mu   sync.Mutex
	r    io.Reader
	err  error
	gone bool
}

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return 0, io.ErrClosedPipe
	}
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *source) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// ListFiles implements guest.Conn.
func (c *Conn) ListFiles(ctx context.Context, path string, opt guest.ListOptions) (guest.Listing, error) {
	req := wire.FilesRequest{Path: wire.Bytes(path), Pattern: wire.Bytes(opt.Pattern), Depth: opt.Depth, Limit: opt.Limit}
	res, err := call[wire.FilesResult](ctx, c, wire.OpFiles, req)
	if err != nil {
		return guest.Listing{}, err
	}
	if opt.Limit > 0 && len(res.Files) > opt.Limit || res.Total < len(res.Files) {
		return guest.Listing{}, errLies("more files than asked for")
	}
	out := guest.Listing{Files: make([]guest.FileInfo, len(res.Files)), Total: res.Total, More: res.More}
	for i, f := range res.Files {
		out.Files[i] = f.Guest()
	}
	return out, nil
}
