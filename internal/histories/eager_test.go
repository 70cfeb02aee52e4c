package histories

import (
	"net"
	"sync"
	"time"
)

// eager is a side of a [net.Pipe] whose writes don't wait for the other to read,
// as those of a socket don't. Otherwise who writes under a lock, as net/http
// closes a connection, could wait for who waits for that lock, and fake time,
// which passes only when nobody waits for a lock, would never end that.
type eager struct {
	net.Conn
	wake chan struct{}

	mu      sync.Mutex
	pending []byte
	closed  bool
}

// lastWords is how long what is pending may take when a connection is closed.
const lastWords = 5 * time.Second

func newEager(c net.Conn) *eager {
	e := &eager{Conn: c, wake: make(chan struct{}, 1)}
	go e.pump()
	return e
}

// pump hands on what is written, and closes the pipe after it.
func (e *eager) pump() {
	defer func() { _ = e.Conn.Close() }()
	for range e.wake {
		e.mu.Lock()
		data, closed := e.pending, e.closed
		e.pending = nil
		e.mu.Unlock()
		if len(data) > 0 {
			if _, err := e.Conn.Write(data); err != nil {
				return // the other side has gone
			}
		}
		if closed {
			return
		}
	}
}

func (e *eager) do(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	select {
	case e.wake <- struct{}{}:
	default: // it is awake
	}
}

func (e *eager) Write(p []byte) (n int, err error) {
	e.do(func() {
		if e.closed {
			err = net.ErrClosed
			return
		}
		e.pending = append(e.pending, p...)
		n = len(p)
	})
	return n, err
}

// Close ends reads at once, and writes when what is pending was read.
func (e *eager) Close() (err error) {
	e.do(func() {
		if e.closed {
			return
		}
		e.closed = true
		now := time.Now()
		if err = e.SetReadDeadline(now); err == nil {
			err = e.Conn.SetWriteDeadline(now.Add(lastWords))
		}
	})
	return err
}

// SetDeadline is of reads alone: writes never wait.
func (e *eager) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

// SetWriteDeadline does nothing, for the same reason.
func (e *eager) SetWriteDeadline(time.Time) error { return nil }
