package wire

import (
	"context"
	"net"
	"syscall"
)

// Sender sends frames from many goroutines over one connection. What the
// connection takes at once leaves on the sender's own goroutine: no other has to
// be woken for it.
type Sender struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if nc has none
	free   chan struct{}   // holds one while something is leaving
	stop   <-chan struct{}
	failed func(error)
}

// NewSender returns a Sender on nc that works until stop is closed or nc fails,
// when it calls failed, which must close stop.
func NewSender(nc net.Conn, stop <-chan struct{}, failed func(error)) *Sender {
	s := &Sender{nc: nc, free: make(chan struct{}, 1), stop: stop, failed: failed}
	if sc, ok := nc.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn() // fails on a closed connection only
	}
	return s
}

// Send sends frame, or leaves it leaving. With an error it certainly never left
// as a whole.
func (s *Sender) Send(ctx context.Context, frame []byte) error {
	select {
	case <-s.stop: // a select would choose at random
		return net.ErrClosed
	default:
	}
	select {
	case s.free <- struct{}{}:
	case <-s.stop:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	n, err := s.now(frame)
	if err != nil {
		<-s.free
		s.failed(err)
		return err
	}
	if n == len(frame) {
		<-s.free
		return nil
	}
	go func() {
		defer func() { <-s.free }()
		if _, err := s.nc.Write(frame[n:]); err != nil {
			s.failed(err)
		}
	}()
	return nil
}

// Flush waits until all that was sent has left, the sender has stopped, or ctx ends.
func (s *Sender) Flush(ctx context.Context) {
	select {
	case s.free <- struct{}{}:
		<-s.free
	case <-s.stop:
	case <-ctx.Done():
	}
}

// now writes what the connection takes without waiting.
func (s *Sender) now(b []byte) (n int, err error) {
	if s.raw == nil {
		return 0, nil
	}
	werr := s.raw.Write(func(fd uintptr) bool {
		n, err = syscall.Write(int(fd), b)
		return true
	})
	if werr != nil {
		return 0, werr
	}
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return 0, nil
	}
	return max(n, 0), err
}
