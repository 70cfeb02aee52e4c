package sshguest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// pieceSize is how much of what goes to the guest is moved at once.
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
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := c.open(ctx, wire.Run, req)
	if err != nil {
		return guest.Exit{}, runError(cmd, reason(ctx, err))
	}
	defer s.close()
	if std.TTY != nil && std.TTY.Resize != nil {
		go s.resize(ctx, std.TTY.Resize)
	}
	var room chan struct{}
	if std.Stdin != nil {
		room = make(chan struct{}, 1)
		go s.feed(ctx, cancel, std.Stdin, room)
	}
	exit, err := s.relay(ctx, std, room)
	if err != nil {
		return guest.Exit{}, runError(cmd, err)
	}
	return checkExit(exit)
}

func runError(cmd guest.Cmd, err error) error {
	if len(cmd.Args) == 0 {
		return fmt.Errorf("run: %w", err)
	}
	return fmt.Errorf("run %.100q: %w", cmd.Args[0], err)
}

// relay hands out what the guest says until its last word. Room gets a value
// whenever the guest has room for more input.
func (s *stream) relay(ctx context.Context, std guest.Streams, room chan<- struct{}) (guest.Exit, error) {
	for {
		kind, err := s.in.Next()
		if err != nil {
			return guest.Exit{}, s.broken(ctx, err)
		}
		switch kind {
		case wire.Data:
			err = s.copyPart(ctx, std.Stdout)
		case wire.ErrData:
			err = s.copyPart(ctx, std.Stderr)
		case wire.More:
			select {
			case room <- struct{}{}:
			default: // it lies, or there is no input
			}
		case wire.End:
			end, err := s.end(ctx)
			return end.Exit, err
		default: // says nothing of a command
		}
		if err != nil {
			return guest.Exit{}, err
		}
	}
}

// copyPart writes a part to w as it comes.
func (s *stream) copyPart(ctx context.Context, w io.Writer) error {
	for {
		b, err := s.in.Piece()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return s.broken(ctx, err)
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
}

// feed sends the command its input whenever there is room for some.
func (s *stream) feed(ctx context.Context, cancel context.CancelCauseFunc, r io.Reader, room <-chan struct{}) {
	piece := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	for {
		select {
		case <-room:
		case <-ctx.Done():
			return
		}
		n := 0
		var err error
		for n == 0 && err == nil {
			n, err = r.Read(piece[:])
		}
		if n > 0 && s.out.Send(wire.Data, piece[:n]) != nil {
			return // the command may end before its input
		}
		if n > 0 && err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			cancel(err)
			return
		}
		if n > 0 {
			select {
			case <-room:
			case <-ctx.Done():
				return
			}
		}
		_ = s.out.Send(wire.EOF, nil) // fails with the stream
		return
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
			_ = s.out.SendJSON(wire.Resize, wire.Size(size)) // fails with the stream
		case <-ctx.Done():
			return
		}
	}
}
