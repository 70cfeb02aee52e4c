package sshguest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// ReadFile implements guest.Conn. The end of ctx also ends the reader.
func (c *Conn) ReadFile(ctx context.Context, path string, off, n int64) (io.ReadCloser, guest.FileInfo, error) {
	s, err := c.open(ctx, wire.Read, wire.ReadRequest{Path: wire.Bytes(path), Off: off, N: n})
	if err != nil {
		return nil, guest.FileInfo{}, reason(ctx, err)
	}
	var fi wire.FileInfo
	select {
	case fi = <-s.begun:
	case <-s.over:
		select {
		case fi = <-s.begun: // a short file is over at once
		default:
			if _, err = s.result(ctx); err == nil {
				err = errLies("a file without a description")
			}
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.close()
		return nil, guest.FileInfo{}, err
	}
	info := fi.Guest()
	info.Path = path
	return s.reader(ctx, n), info, nil
}

// reader returns the data of s as a reader that ctx ends.
func (s *stream) reader(ctx context.Context, n int64) io.ReadCloser {
	pr, pw := io.Pipe()
	r := &fileReader{PipeReader: pr, s: s}
	r.stop = context.AfterFunc(ctx, func() {
		_ = pw.CloseWithError(ctx.Err())
		s.close()
	})
	go func() {
		piece := pieces.Get().(*[pieceSize]byte)
		defer pieces.Put(piece)
		err := copyAtMost(pw, s.ch, n, piece[:])
		if err == nil {
			_, err = s.result(ctx)
		}
		_ = pw.CloseWithError(err)
		s.close()
	}()
	return r
}

// copyAtMost copies all of r, which must be no longer than n unless that is
// negative.
func copyAtMost(w io.Writer, r io.Reader, n int64, buf []byte) error {
	for total := int64(0); ; {
		m, err := r.Read(buf)
		if total += int64(m); n >= 0 && total > n {
			return errLies("more of a file than asked for")
		}
		if _, err := w.Write(buf[:m]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type fileReader struct {
	*io.PipeReader
	s    *stream
	stop func() bool
}

// Close ends the reading.
func (r *fileReader) Close() error {
	r.stop()
	r.s.close()
	return r.PipeReader.Close()
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
	sent := make(chan error, 1)
	go func() { sent <- s.send(ctx, src) }()
	select {
	case err = <-sent:
		if err != nil && src.failed() != nil {
			return guest.WriteResult{}, fmt.Errorf("write %s: %w", path, src.failed())
		}
		if ctx.Err() != nil {
			return guest.WriteResult{}, ctx.Err()
		}
	case <-s.over: // refused before all was sent
	case <-ctx.Done():
		return guest.WriteResult{}, ctx.Err()
	}
	end, err := s.result(ctx)
	if err != nil {
		return guest.WriteResult{}, err
	}
	if end.Wrote == nil {
		return guest.WriteResult{}, errLies("a write without a result")
	}
	return *end.Wrote, nil
}

// send sends the content and then that it is all.
func (s *stream) send(ctx context.Context, src *source) error {
	piece := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	var total int64
	for {
		n, err := src.Read(piece[:])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n > 0 {
			if _, err := s.ch.Write(piece[:n]); err != nil {
				return err
			}
			total += int64(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.ch.SendRequest(wire.Commit, false, strconv.AppendInt(nil, total, 10)); err != nil {
		return err
	}
	return s.ch.CloseWrite()
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
