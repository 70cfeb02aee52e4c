package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

// forward serves a channel that is to become a connection to a port of the sandbox
// (RFC 4254, section 7.2). A name that is not one of its own loopback is never looked
// up: neither this machine nor what it or the sandbox reaches is meant.
func (c *client) forward(ctx context.Context, cancel context.CancelFunc, nc ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	switch err := ssh.Unmarshal(nc.ExtraData(), &to); {
	case err != nil:
		_ = nc.Reject(ssh.ConnectionFailed, "malformed request") // as below, fails with the connection
		return
	case to.Host != "localhost" && to.Host != "127.0.0.1" && to.Host != "::1": // others of 127.0.0.0/8 are other services
		_ = nc.Reject(ssh.Prohibited, fmt.Sprintf("host %.100q: only ports of the sandbox itself can be reached, as localhost", to.Host))
		return
	case to.Port == 0 || to.Port > math.MaxUint16:
		_ = nc.Reject(ssh.ConnectionFailed, fmt.Sprintf("port %d: want 1 to %d", to.Port, math.MaxUint16))
		return
	}
	t, _, err := c.begin(ctx, terminal.Request{Service: &terminal.Service{Port: int(to.Port)}})
	if err == nil {
		p := &port{ctx: ctx, cancel: cancel, channel: nc, open: make(chan struct{})}
		if _, err = t.Run(p, p, io.Discard); p.ch != nil {
			_ = p.ch.CloseWrite()
			_ = p.ch.Close()
			return
		}
	}
	if err == nil || errors.Is(err, errNoLine) {
		err = fmt.Errorf("nothing answers on port %d of the sandbox", to.Port)
	}
	_ = nc.Reject(ssh.ConnectionFailed, c.Explain(err))
}

// lastWords is how long what a client said before it closed has to get to the port.
const lastWords = time.Second

// port is the connection on the client's side. Its channel is opened when the port
// is: before, the client may be told that it can't be.
type port struct {
	ctx     context.Context
	cancel  context.CancelFunc // is called soon after the client has closed it
	channel ssh.NewChannel
	open    chan struct{} // closed when ch is set
	ch      ssh.Channel
}

// errNoLine: what was to join us to a port does something else.
var errNoLine = errors.New("it does not say that the port is open")

// Write takes what the port says, after the line that says that it is open.
func (p *port) Write(b []byte) (n int, err error) {
	if p.ch == nil && len(b) > 0 {
		if b[0] != '\n' {
			return 0, errNoLine
		}
		ch, requests, err := p.channel.Accept()
		if err != nil {
			return 0, err
		}
		go func() {
			ssh.DiscardRequests(requests)
			time.AfterFunc(lastWords, p.cancel)
		}()
		p.ch = ch
		close(p.open)
		n, b = 1, b[1:]
	}
	if len(b) == 0 {
		return n, nil
	}
	m, err := p.ch.Write(b)
	if errors.Is(err, io.EOF) { // it is closed, and what it said before still has to get there
		m, err = len(b), nil
	}
	return n + m, err
}

// Read gives what the client says.
func (p *port) Read(b []byte) (int, error) {
	select {
	case <-p.open:
		return p.ch.Read(b)
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
}
