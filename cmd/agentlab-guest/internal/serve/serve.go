// Package serve is the SSH server of the guest. It knows the standard session
// channels, so that ssh and sftp work, and those of package wire for a host
// that wants more than these can say.
package serve

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/files"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/keep"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// Limits of connections that have not shown the key yet.
const (
	maxStrangers  = 16
	handshakeTime = 10 * time.Second
	maxAuthTries  = 3
	acceptPause   = 50 * time.Millisecond // after a failure
)

// Server serves one machine.
type Server struct {
	Host  *proc.Host
	Table *keep.Table
	Files files.FS
	Log   *slog.Logger

	config *ssh.ServerConfig
}

// New returns a server with the keys of seed.
func New(seed guest.Seed, host *proc.Host, table *keep.Table, log *slog.Logger) (*Server, error) {
	if len(seed.HostKey) != ed25519.SeedSize || len(seed.ClientKey) != ed25519.PublicKeySize {
		return nil, errors.New("read seed: keys have the wrong length")
	}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed.HostKey))
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	client, err := ssh.NewPublicKey(ed25519.PublicKey(seed.ClientKey))
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	s := &Server{Host: host, Table: table, Files: files.FS{Home: seed.Home}, Log: log}
	s.config = &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherChaCha20Poly1305},
		},
		MaxAuthTries:  maxAuthTries,
		ServerVersion: wire.Version,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), client.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{}, nil
		},
	}
	s.config.AddHostKey(signer)
	return s, nil
}

// Serve serves the connections of l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	strangers := make(chan struct{}, maxStrangers)
	failing := false
	for {
		strangers <- struct{}{}
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !failing { // out of files, perhaps: it passes
				s.Log.Warn("accept", "err", err)
			}
			failing = true
			time.Sleep(acceptPause)
			<-strangers
			continue
		}
		failing = false
		go s.serveConn(ctx, nc, func() { <-strangers })
	}
}

// conn is one authenticated connection.
type conn struct {
	*Server
	ctx context.Context // ends with the connection
}

func (s *Server) serveConn(ctx context.Context, raw net.Conn, known func()) {
	nc := wire.NewConn(raw)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(handshakeTime)) // fails on a closed connection only
	sc, channels, requests, err := ssh.NewServerConn(nc, s.config)
	known()
	if err != nil {
		s.Log.Debug("handshake", "err", err)
		return
	}
	_ = nc.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = sc.Close() })
	defer stop()
	go ssh.DiscardRequests(requests)
	c := &conn{s, ctx}
	for nc := range channels {
		go c.serveChannel(nc)
	}
}

// serveChannel serves one channel; a panic in it costs only that channel.
func (c *conn) serveChannel(nc ssh.NewChannel) {
	serve := map[string]func(ssh.Channel, <-chan *ssh.Request){
		"session": c.session, wire.Calls: c.calls, wire.Run: c.run, wire.Read: c.read, wire.Write: c.write,
	}[nc.ChannelType()]
	if serve == nil {
		_ = nc.Reject(ssh.UnknownChannelType, nc.ChannelType())
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	serve(ch, requests)
}

// end sends the last word of a stream.
func (c *conn) end(ch ssh.Channel, e wire.EndStream) { c.tell(ch, wire.End, e) }

func (c *conn) tell(ch ssh.Channel, name string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		c.Log.Error("encode", "what", name, "err", err)
		return
	}
	_, _ = ch.SendRequest(name, false, text) // fails with the connection, which all notice
}
