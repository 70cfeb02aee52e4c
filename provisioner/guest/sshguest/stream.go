package sshguest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// stream is a call that streams, on a connection of its own. To close that is
// to cancel it. One goroutine reads, and any may write.
type stream struct {
	nc   net.Conn
	link *link
	in   *wire.StreamReader
	out  *wire.StreamWriter
	stop func() bool // of closing it with its context
}

// open begins a stream, which lives until ctx ends or it is closed. It is tried
// once more if the request certainly never left.
func (c *Conn) open(ctx context.Context, what string, req any) (*stream, error) {
	args, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	for again := true; ; again = false {
		l, err := c.link(ctx)
		if err != nil {
			return nil, err
		}
		s, err := c.openOn(ctx, l, wire.Open{For: what, Args: args})
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !again {
			return nil, fmt.Errorf("%w: %w", guest.ErrUnreachable, err)
		}
		l.ping(ctx) // if it is dead, that shows now
	}
}

// openOn begins a stream of l. With an error it certainly never began.
func (c *Conn) openOn(ctx context.Context, l *link, open wire.Open) (*stream, error) {
	select {
	case c.joining <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.joining }()
	l.begin()
	joining, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	nc, err := c.join(joining, l.session.Load(), open)
	if err != nil {
		l.done()
		return nil, errors.Join(l.cause(), err)
	}
	s := &stream{nc: nc, link: l, in: wire.NewStreamReader(heardReader{nc, &l.heard}), out: wire.NewStreamWriter(nc)}
	s.stop = closeWith(ctx, nc)
	l.add(s)
	return s, nil
}

// close ends the stream, and with it what the guest still does for it. Nobody
// may read from it any more.
func (s *stream) close() {
	s.stop()
	_ = s.nc.Close() // whatever it says, it is of no use any more
	s.in.Release()
	s.link.remove(s)
	s.link.done()
}

// broken returns why the stream broke off with err.
func (s *stream) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if cause := s.link.cause(); cause != nil {
		return cause
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it broke off in the middle", guest.ErrUnreachable)
	}
	return fmt.Errorf("%w: %w", guest.ErrUnreachable, err)
}

// end reads the last part.
func (s *stream) end(ctx context.Context) (wire.EndStream, error) {
	var end wire.EndStream
	if err := s.in.JSON(&end); err != nil {
		return end, s.broken(ctx, err)
	}
	return end, wire.FromError(end.Err)
}
