package sshguest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// stream is a channel of a call that streams.
type stream struct {
	ch    ssh.Channel
	link  *link
	begun chan wire.FileInfo // has room for one
	over  chan struct{}      // closed when the guest has closed the channel
	end   *wire.EndStream    // its last word, if it had one; valid after over
}

// open opens a channel and sends its request. When ctx ends first, or later,
// the channel is closed: whatever the guest does for it ends.
func (c *Conn) open(ctx context.Context, kind string, req any) (*stream, error) {
	frame, err := wire.Frame(req)
	if err != nil {
		return nil, err
	}
	for again := true; ; again = false {
		l, err := c.link(ctx)
		if err != nil {
			return nil, err
		}
		s, err := l.open(ctx, kind, frame)
		if errors.Is(err, errNotSent) && again {
			continue
		}
		return s, err
	}
}

func (l *link) open(ctx context.Context, kind string, frame []byte) (*stream, error) {
	type opened struct {
		s   *stream
		err error
	}
	result := make(chan opened, 1)
	l.begin()
	go func() { // neither call below heeds ctx
		ch, requests, err := l.ssh.OpenChannel(kind, nil)
		if err != nil {
			l.done()
			if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused {
				err = errNotSent
			}
			result <- opened{err: fmt.Errorf("%w: %w", guest.ErrUnreachable, err)}
			return
		}
		s := &stream{ch: ch, link: l, begun: make(chan wire.FileInfo, 1), over: make(chan struct{})}
		go s.listen(requests)
		_, err = ch.Write(frame)
		if err != nil {
			err = fmt.Errorf("%w: %w", guest.ErrUnreachable, err)
		}
		result <- opened{s, err}
	}()
	select {
	case r := <-result:
		return r.s, r.err
	case <-l.dead:
		return nil, l.cause()
	case <-ctx.Done():
		go func() {
			if r := <-result; r.s != nil {
				r.s.close()
			}
		}()
		return nil, ctx.Err()
	}
}

// listen takes the guest's requests until the channel is closed.
func (s *stream) listen(requests <-chan *ssh.Request) {
	defer s.link.done()
	defer close(s.over)
	for r := range requests {
		switch r.Type {
		case wire.Begin:
			var fi wire.FileInfo
			if json.Unmarshal(r.Payload, &fi) == nil {
				select {
				case s.begun <- fi:
				default:
				}
			}
		case wire.End:
			var end wire.EndStream
			if json.Unmarshal(r.Payload, &end) == nil {
				s.end = &end
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil) // fails with the connection
		}
	}
}

// close closes our side: the guest stops what it does for the stream. It never
// blocks, also when the guest reads nothing.
func (s *stream) close() { go func() { _ = s.ch.Close() }() }

// result waits for the guest's last word.
func (s *stream) result(ctx context.Context) (*wire.EndStream, error) {
	select {
	case <-s.over:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.end == nil {
		if err := s.link.cause(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it broke off in the middle", guest.ErrUnreachable)
	}
	return s.end, wire.FromError(s.end.Err)
}
