package keep

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// errClosed: the process was started without standard input, or it was closed.
var errClosed = errors.New("standard input of the process is closed")

// stdin feeds a process from a queue, so that one which doesn't read holds up
// nobody.
type stdin struct {
	mu      sync.Mutex
	queue   []byte
	closing bool
	wake    chan struct{} // has room for one
}

func newStdin(first []byte, keep bool) *stdin {
	s := &stdin{queue: first, closing: !keep, wake: make(chan struct{}, 1)}
	s.wake <- struct{}{}
	return s
}

// Add queues b, and the end after it if last is set.
func (s *stdin) Add(b []byte, last bool) error {
	if s == nil {
		return errClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing && len(b) > 0 {
		return errClosed
	}
	if len(s.queue)+len(b) > guest.MaxStdin {
		return fmt.Errorf("%w: the process has not read %d bytes of its input yet", guest.ErrBusy, len(s.queue))
	}
	s.queue = append(s.queue, b...)
	s.closing = s.closing || last
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// feed writes the queue to w until it is closed or the process has ended.
func (s *stdin) feed(w *os.File, done <-chan struct{}) {
	go func() {
		<-done
		_ = w.Close() // ends a write that blocks
	}()
	defer w.Close()
	for {
		select {
		case <-s.wake:
		case <-done:
			return
		}
		s.mu.Lock()
		b, last := s.queue, s.closing
		s.queue = nil
		s.mu.Unlock()
		if _, err := w.Write(b); err != nil || last && len(b) == 0 {
			s.mu.Lock()
			s.closing = true
			s.mu.Unlock()
			return
		}
		if last {
			return
		}
	}
}
