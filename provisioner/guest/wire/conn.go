package wire

import (
	"bufio"
	"net"
	"sync"
)

// connBuffer is how much a Conn reads and writes at once.
const connBuffer = 64 << 10

// Conn is a connection below SSH that moves many packets with one system call:
// x/crypto/ssh writes each of them in two parts and reads them in as many. What
// is written leaves at once when nothing else is leaving.
type Conn struct {
	net.Conn
	in *bufio.Reader

	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	spare   []byte
	err     error // the connection fails or is closed
}

// NewConn returns a Conn on nc. It ends with Close.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{Conn: nc, in: bufio.NewReaderSize(nc, connBuffer)}
	c.changed.L = &c.mu
	go c.flush()
	return c
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) { return c.in.Read(b) }

// Write implements net.Conn. It waits while much is on its way; its error may
// be that of an earlier Write.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) >= connBuffer && c.err == nil {
		c.changed.Wait()
	}
	if c.err != nil {
		return 0, c.err
	}
	c.pending = append(c.pending, b...)
	c.changed.Broadcast()
	return len(b), nil
}

// flush writes what is pending until the connection ends.
func (c *Conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		if len(c.pending) == 0 {
			c.changed.Wait()
			continue
		}
		b := c.pending
		c.pending = c.spare[:0]
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		c.spare = b
		if err != nil && c.err == nil {
			c.err = err
		}
		c.changed.Broadcast()
	}
}

// Close implements net.Conn. What has not left is lost.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	return c.Conn.Close()
}
