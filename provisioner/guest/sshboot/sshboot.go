// Package sshboot reaches the inside of a machine that runs a stock OpenSSH
// server: it logs in, puts agentlab-guest there if it is missing, starts it if
// it does not run, and speaks to it as package sshguest does, through the one
// SSH connection.
//
// In the machine all is in one directory of the user we log in as:
// /var/lib/agentlab-guest of root, ~/.agentlab-guest of others. The server
// there outlives our connections; the next call starts it again when it has
// died or the machine was restarted.
package sshboot

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
)

var _ guest.Conn = (*Conn)(nil)

const (
	// bootTime bounds all that is done until agentlab-guest answers: it may
	// have to be sent over a slow network.
	bootTime         = time.Minute
	defaultLoginTime = 10 * time.Second
	// defaultKeepAlive is as sshguest's.
	defaultKeepAlive = 5 * time.Second
	// quiet is how many KeepAlives pass between pings of an idle connection.
	quiet = 3
)

// Config says how to reach a machine.
type Config struct {
	Dial     func(ctx context.Context) (net.Conn, error) // to its SSH server; required
	User     string                                      // to log in as; required
	HostKeys []ssh.PublicKey                             // those its SSH server may show; required
	Signer   ssh.Signer                                  // who we are, an ed25519 key; required
	GuestKey []byte                                      // ed25519 seed of the host key of its agentlab-guest; required
	Program  string                                      // path of our agentlab-guest; required
	Home     string                                      // where commands start; empty is the user's home

	Dir       string        // directory of ours in the machine; empty is as the package says
	LoginTime time.Duration // of the TCP connection and the handshake of SSH; 0 is 10 s
	KeepAlive time.Duration // as sshguest's
}

// Conn implements guest.Conn.
type Conn struct {
	*sshguest.Conn
	door *door
}

// New returns a Conn. It dials nothing yet.
func New(cfg Config) (*Conn, error) {
	if cfg.KeepAlive <= 0 {
		cfg.KeepAlive = defaultKeepAlive
	}
	if cfg.LoginTime <= 0 {
		cfg.LoginTime = defaultLoginTime
	}
	client, err := clientKey(cfg.Signer)
	if err != nil {
		return nil, err
	}
	if len(cfg.GuestKey) != ed25519.SeedSize {
		return nil, fmt.Errorf("guest key of %d bytes: an ed25519 seed has %d", len(cfg.GuestKey), ed25519.SeedSize)
	}
	hostKey, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(cfg.GuestKey).Public())
	if err != nil {
		return nil, fmt.Errorf("guest key: %w", err)
	}
	d := &door{
		cfg: cfg, turn: make(chan struct{}, 1),
		seed:  guest.Seed{HostKey: cfg.GuestKey, ClientKey: client, Home: cfg.Home},
		inner: sshguest.Config{User: cfg.User, HostKey: hostKey, Signer: cfg.Signer, DialTimeout: bootTime, KeepAlive: cfg.KeepAlive},
	}
	d.inner.Dial = d.dial
	return &Conn{Conn: sshguest.New(d.inner), door: d}, nil
}

// clientKey returns the public half of a signer as agentlab-guest wants it.
func clientKey(s ssh.Signer) (ed25519.PublicKey, error) {
	if k, ok := s.PublicKey().(ssh.CryptoPublicKey); ok {
		if public, ok := k.CryptoPublicKey().(ed25519.PublicKey); ok {
			return public, nil
		}
	}
	return nil, fmt.Errorf("client key is of type %s: an ed25519 key is needed", s.PublicKey().Type())
}

// Close implements guest.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.door.close()
	return err
}

// door makes connections to the agentlab-guest of one machine, all through one
// login, which is made when it is first needed and again after it broke.
type door struct {
	cfg   Config
	seed  guest.Seed
	inner sshguest.Config
	turn  chan struct{} // has one while somebody sees to the login

	mu     sync.Mutex
	login  *login
	closed bool
}

// dial is for sshguest.
func (d *door) dial(ctx context.Context) (net.Conn, error) {
	l, err := d.ready(ctx, nil)
	if err != nil {
		return nil, err
	}
	nc, err := l.connect(ctx)
	if err == nil || ctx.Err() != nil {
		return nc, err
	}
	// The login is broken, or nobody listens any more.
	if l, err = d.ready(ctx, l); err != nil {
		return nil, err
	}
	return l.connect(ctx)
}

// ready returns a login whose agentlab-guest listens. Stale is one whose
// agentlab-guest did not; nil if none did.
func (d *door) ready(ctx context.Context, stale *login) (*login, error) {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := d.current()
	if l != nil && !l.broken() && l != stale {
		return l, nil
	}
	if l != nil && !l.broken() {
		l = l.again()
		if l.boot(ctx) == nil {
			return l, d.keep(l)
		}
		l.close() // it may be the connection that has just broken
	}
	l, err := d.logIn(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.boot(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, d.keep(l)
}

func (d *door) current() *login {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.login
}

// keep makes l the current login.
func (d *door) keep(l *login) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		l.close()
		return net.ErrClosed
	}
	d.login = l
	return nil
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.login != nil {
		d.login.close()
	}
}

// errAdvice ends errors that only another channel gets around.
var errAdvice = errors.New("set channel: agent in the profile to do without it")
