package sshguest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// pieceSize is how much of a stream is moved at once.
const pieceSize = 128 << 10

// pieces are shared, and held only while a stream is moved.
var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// Run implements guest.Conn. When it returns, nothing writes to the streams any
// more; a Read of std.Stdin may still be under way.
func (c *Conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	req := wire.RunRequest{Cmd: wire.FromCmd(cmd), Stdin: std.Stdin != nil}
	if std.TTY != nil {
		req.TTY, req.Term = true, std.TTY.Term
		req.Size = wire.Size{Cols: std.TTY.Cols, Rows: std.TTY.Rows}
		req.Stdin = true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := c.open(ctx, wire.Run, req)
	if err != nil {
		return guest.Exit{}, runError(cmd, reason(ctx, err))
	}
	defer s.close()
	out := s.relay(ctx, cancel, std)
	defer out.abandon()
	select {
	case <-out.done:
	case <-ctx.Done():
		return guest.Exit{}, runError(cmd, context.Cause(ctx))
	}
	end, err := s.result(ctx)
	if err != nil {
		return guest.Exit{}, runError(cmd, reasonCause(ctx, err))
	}
	return checkExit(end.Exit)
}

func runError(cmd guest.Cmd, err error) error {
	if len(cmd.Args) == 0 {
		return fmt.Errorf("run: %w", err)
	}
	return fmt.Errorf("run %.100q: %w", cmd.Args[0], err)
}

// reasonCause prefers the cause of ctx's end for an error that it led to.
func reasonCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// output is what moves a command's output to its writers.
type output struct {
	done chan struct{} // closed when both streams have ended
	gone bool          // nobody wants it any more
	mu   sync.Mutex    // held while a writer writes
	out  [2]sync.Mutex
}

// relay joins the command's streams with std. An error of std ends ctx.
func (s *stream) relay(ctx context.Context, cancel context.CancelCauseFunc, std guest.Streams) *output {
	o := &output{done: make(chan struct{})}
	var both sync.WaitGroup
	for i, dir := range []struct {
		from io.Reader
		to   io.Writer
	}{{s.ch, std.Stdout}, {s.ch.Stderr(), std.Stderr}} {
		both.Go(func() {
			if err := o.copy(i, dir.to, dir.from); err != nil {
				cancel(err)
			}
		})
	}
	go func() {
		both.Wait()
		close(o.done)
	}()
	if std.Stdin != nil {
		go s.feed(cancel, std.Stdin)
	}
	if std.TTY != nil && std.TTY.Resize != nil {
		go s.resize(ctx, std.TTY.Resize)
	}
	return o
}

// copy moves one stream until its end. After abandon it reads on, since the
// guest may wait for room, and drops what it gets.
func (o *output) copy(i int, w io.Writer, r io.Reader) error {
	if w == nil {
		w = io.Discard
	}
	piece := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	var failed error
	for {
		n, err := r.Read(piece[:])
		if n > 0 && failed == nil {
			failed = o.write(i, w, piece[:n])
		}
		if err != nil {
			return failed // how the stream ended is the last word's to say
		}
		if failed != nil {
			return failed
		}
	}
}

func (o *output) write(i int, w io.Writer, b []byte) error {
	o.out[i].Lock()
	defer o.out[i].Unlock()
	o.mu.Lock()
	gone := o.gone
	o.mu.Unlock()
	if gone {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// abandon returns when no writer is being written to, and none will be.
func (o *output) abandon() {
	o.mu.Lock()
	o.gone = true
	o.mu.Unlock()
	for i := range o.out {
		o.out[i].Lock()
		o.out[i].Unlock() //nolint:staticcheck // only to wait for who holds it
	}
}

// feed sends the command its input.
func (s *stream) feed(cancel context.CancelCauseFunc, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := s.ch.Write(buf[:n]); err != nil {
				return // the command may end before its input
			}
		}
		if errors.Is(err, io.EOF) {
			_ = s.ch.CloseWrite() // fails with the channel
			return
		}
		if err != nil {
			cancel(err)
			return
		}
	}
}

// resize passes on the sizes of the terminal.
func (s *stream) resize(ctx context.Context, sizes <-chan guest.Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if text, err := json.Marshal(wire.Size(size)); err == nil {
				_, _ = s.ch.SendRequest(wire.Resize, false, text) // fails with the channel
			}
		case <-ctx.Done():
			return
		}
	}
}
