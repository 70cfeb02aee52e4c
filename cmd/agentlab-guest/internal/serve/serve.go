// Package serve is the server of the guest: SSH with the standard session
// channels, so that ssh and sftp work, and package wire for a host that wants
// more than these can say.
package serve

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
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
	firstTime     = 10 * time.Minute // to use the session of the seed
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
	first  *wire.Session // of the seed; nil is none

	mu       sync.Mutex
	sessions map[wire.ID]*hostSession
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
	s := &Server{Host: host, Table: table, Files: files.FS{Home: seed.Home}, Log: log, sessions: map[wire.ID]*hostSession{}}
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
	if seed.Session != nil {
		if s.first, err = wire.ParseSession(seed.Session); err != nil {
			return nil, fmt.Errorf("read seed: %w", err)
		}
	}
	return s, nil
}

// Serve serves the connections of l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	if s.first != nil {
		s.addSession(ctx, s.first, firstTime)
	}
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

// serveConn serves one connection, and calls known when it has authenticated
// itself or failed to.
func (s *Server) serveConn(ctx context.Context, nc net.Conn, known func()) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(handshakeTime)) // fails on a closed connection only
	joins, nc, err := wire.Joins(nc)
	if err != nil {
		known()
		return
	}
	if joins {
		s.serveJoined(nc, known)
		return
	}
	sc, channels, requests, err := ssh.NewServerConn(nc, s.config)
	known()
	if err != nil {
		s.Log.Debug("handshake", "err", err)
		return
	}
	_ = nc.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = sc.Close() })
	defer stop()
	go s.serveRequests(ctx, requests)
	for nc := range channels {
		go s.serveChannel(ctx, nc)
	}
}

// serveRequests answers the global requests of an SSH connection.
func (s *Server) serveRequests(ctx context.Context, requests <-chan *ssh.Request) {
	for r := range requests {
		var payload []byte
		if r.Type == wire.NewSession {
			payload = s.addSession(ctx, wire.MakeSession(), handshakeTime).Payload()
		}
		if r.WantReply {
			_ = r.Reply(payload != nil, payload) // fails with the connection
		}
	}
}

func (s *Server) serveChannel(ctx context.Context, nc ssh.NewChannel) {
	if t := nc.ChannelType(); t != "session" && t != wire.Connect {
		_ = nc.Reject(ssh.UnknownChannelType, t)
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	if nc.ChannelType() == "session" {
		s.serveSession(ch, requests)
		return
	}
	go ssh.DiscardRequests(requests)
	inner := wire.Channel(ch)
	defer inner.Close()
	s.serveConn(ctx, inner, func() {})
}
