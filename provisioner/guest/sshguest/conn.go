// Package sshguest reaches the inside of a machine over SSH: it is the
// guest.Conn of machines that run agentlab-guest.
//
// SSH is how both sides get to know each other, and is over when they do: they
// share a session (package wire) then, which is made when it is first needed
// and again after it broke. Short calls share one connection of the session, and
// each call that streams has its own. A session on which somebody waits is
// watched: a guest that hangs is noticed by its silence.
package sshguest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

var _ guest.Conn = (*Conn)(nil)

// Defaults of Config.
const (
	defaultDialTimeout = 10 * time.Second
	defaultKeepAlive   = 5 * time.Second
)

// maxJoining is how many connections of streams are made at once: a guest serves
// few strangers, and the queue before a Unix socket is short.
const maxJoining = 8

// Config says how to reach a guest.
type Config struct {
	Dial        func(ctx context.Context) (net.Conn, error) // required
	User        string                                      // for the server's log; agentlab-guest knows but one
	HostKey     ssh.PublicKey                               // required: the only key the guest may show
	Signer      ssh.Signer                                  // required: who we are
	Session     []byte                                      // that of the guest's seed, to do without SSH once; nil is none
	DialTimeout time.Duration                               // of dialling and the handshake; 0 is 10 s
	KeepAlive   time.Duration                               // of silence before a ping, and before it counts as missed; 0 is 5 s
}

// Conn implements guest.Conn.
type Conn struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	first   atomic.Pointer[wire.Session] // of the guest's seed, until it was tried
	joining chan struct{}                // holds one for each connection being made

	mu      sync.Mutex
	current *link
	dialing *dial
}

// dial is a connection being made, for all who wait for it.
type dial struct {
	done chan struct{}
	link *link
	err  error
}

// New returns a Conn. It dials nothing yet.
func New(cfg Config) *Conn {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.KeepAlive <= 0 {
		cfg.KeepAlive = defaultKeepAlive
	}
	c := &Conn{cfg: cfg, joining: make(chan struct{}, maxJoining)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if first, err := wire.ParseSession(cfg.Session); err == nil {
		c.first.Store(first)
	}
	return c
}

// Close closes the connection. Calls that are under way fail.
func (c *Conn) Close() error {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.fail(net.ErrClosed)
	}
	return nil
}

// link returns the connection, and makes one if there is none that works.
func (c *Conn) link(ctx context.Context) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if l := c.current; l != nil && !l.failed() {
		c.mu.Unlock()
		return l, nil
	}
	if c.dialing == nil {
		c.dialing = &dial{done: make(chan struct{})}
		go c.dial(c.dialing)
	}
	d := c.dialing
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("dial guest: %w: %w", guest.ErrUnreachable, ctx.Err())
	}
}

// dial makes a connection; no single caller's end ends it.
func (c *Conn) dial(d *dial) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	link, err := c.connect(ctx)
	if err != nil {
		err = fmt.Errorf("dial guest: %w: %w", guest.ErrUnreachable, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.ctx.Err() != nil {
		link.fail(net.ErrClosed)
	}
	d.link, d.err = link, err
	c.current, c.dialing = link, nil
	close(d.done)
}

// connect makes a session and its connection for short calls.
func (c *Conn) connect(ctx context.Context) (*link, error) {
	if first := c.first.Swap(nil); first != nil {
		// The guest forgets it when it was used or is old: then SSH is the way.
		if nc, err := c.join(ctx, first, wire.Open{For: wire.Calls}); err == nil {
			return newLink(nc, first, c.cfg.KeepAlive), nil
		}
	}
	session, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	nc, err := c.join(ctx, session, wire.Open{For: wire.Calls})
	if err != nil {
		return nil, err
	}
	return newLink(nc, session, c.cfg.KeepAlive), nil
}

// session gets to know the guest over SSH.
func (c *Conn) session(ctx context.Context) (*wire.Session, error) {
	nc, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	defer closeWith(ctx, nc)()
	sc, channels, requests, err := ssh.NewClientConn(nc, "guest", c.cfg.ClientConfig())
	if err != nil {
		return nil, errors.Join(context.Cause(ctx), err)
	}
	go ssh.DiscardRequests(requests)
	go refuse(channels)
	if err := checkVersion(sc); err != nil {
		return nil, err
	}
	ok, payload, err := sc.SendRequest(wire.NewSession, true, nil)
	if err != nil || !ok {
		return nil, errors.Join(context.Cause(ctx), err, errors.New("the guest gives no session"))
	}
	return wire.ParseSession(payload)
}

// join makes one more connection of a session. With an error nothing of open
// took effect.
func (c *Conn) join(ctx context.Context, session *wire.Session, open any) (net.Conn, error) {
	first, err := wire.Frame(open)
	if err != nil {
		return nil, err
	}
	nc, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, nc)()
	if err := session.Join(nc, first); err != nil {
		_ = nc.Close()
		return nil, errors.Join(context.Cause(ctx), err)
	}
	return nc, nil // also if ctx ends now: what left can't be called back
}

// closeWith closes nc when ctx ends, unless stop is called before.
func closeWith(ctx context.Context, nc net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = nc.Close() })
}

// ClientConfig is how we open an SSH connection to agentlab-guest. It offers one
// algorithm of each kind: those that are fastest on processors of today, and
// the ones our server has.
func (c Config) ClientConfig() *ssh.ClientConfig {
	return &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES128GCM},
		},
		User:              c.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(c.Signer)},
		HostKeyCallback:   ssh.FixedHostKey(c.HostKey),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		ClientVersion:     "SSH-2.0-AgentLab",
	}
}

// checkVersion refuses a server that doesn't know package wire.
func checkVersion(sc ssh.Conn) error {
	if v := string(sc.ServerVersion()); !strings.HasPrefix(v, wire.Version) {
		return fmt.Errorf("the guest is not an agentlab-guest of our version: %.100q", v)
	}
	return nil
}

// refuse refuses the channels a guest opens: it has nothing to ask of us.
func refuse(channels <-chan ssh.NewChannel) {
	for nc := range channels {
		_ = nc.Reject(ssh.Prohibited, "") // fails with the connection
	}
}

// reason prefers the reason of ctx for an error that its end caused.
func reason(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
