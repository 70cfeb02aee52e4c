package sshboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// login is one connection to the machine's SSH server. It does not change once
// its agentlab-guest listens.
type login struct {
	door   *door
	client *ssh.Client
	gone   chan struct{} // closed when the connection has ended

	dir   string      // of agentlab-guest, once it listens
	relay *ssh.Client // to it, where the SSH server forwards no sockets; else nil
}

// logIn connects to the SSH server.
func (d *door) logIn(ctx context.Context) (*login, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LoginTime)
	defer cancel()
	nc, err := d.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	sc, channels, requests, err := ssh.NewClientConn(nc, d.address(nc), d.clientConfig())
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("log in to %s as %s: %w", d.address(nc), d.cfg.User, errors.Join(context.Cause(ctx), err))
	}
	l := &login{door: d, client: ssh.NewClient(sc, channels, requests), gone: make(chan struct{})}
	go func() {
		_ = l.client.Wait() // why does not matter: the next call logs in again
		close(l.gone)
	}()
	go l.watch(quiet * d.cfg.KeepAlive)
	return l, nil
}

func (d *door) address(nc net.Conn) string { return nc.RemoteAddr().String() }

func (d *door) clientConfig() *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User:              d.cfg.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(d.cfg.Signer)},
		HostKeyCallback:   d.checkHostKey,
		HostKeyAlgorithms: algorithms(d.cfg.HostKeys),
		ClientVersion:     "SSH-2.0-AgentLab",
	}
}

// checkHostKey lets nobody in who is not the machine.
func (d *door) checkHostKey(address string, _ net.Addr, key ssh.PublicKey) error {
	var want []string
	for _, k := range d.cfg.HostKeys {
		if string(k.Marshal()) == string(key.Marshal()) {
			return nil
		}
		want = append(want, ssh.FingerprintSHA256(k))
	}
	return fmt.Errorf("%s shows the host key %s, and the machine's is %s: another machine has its address, or the key was changed",
		address, ssh.FingerprintSHA256(key), strings.Join(want, " or "))
}

// algorithms are those of the keys, so that the server shows one we know.
func algorithms(keys []ssh.PublicKey) (all []string) {
	for _, k := range keys {
		if k.Type() == ssh.KeyAlgoRSA {
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		all = append(all, k.Type())
	}
	return slices.Compact(slices.Sorted(slices.Values(all)))
}

// watch ends a connection whose far side says nothing any more.
func (l *login) watch(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.gone:
			return
		}
		lost := time.AfterFunc(every, l.close)
		_, _, _ = l.client.SendRequest("keepalive@openssh.com", true, nil) // any answer is one
		lost.Stop()
	}
}

func (l *login) close() { _ = l.client.Close() }

func (l *login) broken() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// again returns a login over the same connection, whose agentlab-guest is yet
// to be started.
func (l *login) again() *login {
	if l.relay != nil {
		_ = l.relay.Close()
	}
	return &login{door: l.door, client: l.client, gone: l.gone}
}

// connect makes a connection to agentlab-guest.
func (l *login) connect(ctx context.Context) (net.Conn, error) {
	if l.relay != nil {
		return open(ctx, l.relay, wire.Connect, nil)
	}
	// OpenSSH's PROTOCOL, section 2.4.
	target := struct {
		Path     string
		Reserved string
		Port     uint32
	}{Path: l.dir + "/" + guest.Socket}
	return open(ctx, l.client, "direct-streamlocal@openssh.com", ssh.Marshal(target))
}

// open opens a channel as a connection. One that opens after ctx has ended is closed.
func open(ctx context.Context, c *ssh.Client, kind string, extra []byte) (net.Conn, error) {
	type result struct {
		ch  ssh.Channel
		err error
	}
	opened := make(chan result, 1)
	go func() {
		ch, requests, err := c.OpenChannel(kind, extra)
		if err == nil {
			go ssh.DiscardRequests(requests)
		}
		opened <- result{ch, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("open channel: %w", r.err)
		}
		return wire.Channel(r.ch), nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.ch.Close()
			}
		}()
		return nil, ctx.Err()
	}
}
