// Package serve is the server of the guest: SSH with the standard session
// channels, so that ssh and sftp work, and package wire for a host that wants
// more than these can say.
package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
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

	ctx      context.Context // of all generations
	current  atomic.Pointer[generation]
	rekeying sync.Mutex // held while another takes its place
}

// New returns a server with the keys of seed. All that it does ends with ctx.
func New(ctx context.Context, seed guest.Seed, host *proc.Host, table *keep.Table, log *slog.Logger) (*Server, error) {
	s := &Server{Host: host, Table: table, Files: files.FS{Home: seed.Home}, Log: log, ctx: ctx}
	first, err := newGeneration(ctx, seed.Generation, keys{seed.HostKey, seed.ClientKey, seed.Session})
	if err != nil {
		return nil, fmt.Errorf("read seed: %w", err)
	}
	s.switchTo(first, firstTime)
	return s, nil
}

// switchTo lets a generation take the place of the one before, which is then for
// the caller to end. Its first session, nil if it has none, must be used within a
// time.
func (s *Server) switchTo(g *generation, within time.Duration) (first *hostSession) {
	if g.first != nil {
		first = s.addSession(g, g.first, within)
	}
	s.current.Store(g)
	return first
}

// Serve serves the connections of l until the server's context ends.
func (s *Server) Serve(l net.Listener) error {
	stop := context.AfterFunc(s.ctx, func() { _ = l.Close() })
	defer stop()
	strangers := make(chan struct{}, maxStrangers)
	failing := false
	for {
		strangers <- struct{}{}
		nc, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil {
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
		go s.serveConn(s.current.Load(), nc, func() { <-strangers })
	}
}

// serveConn serves one connection of a generation, and calls known when it has
// authenticated itself or failed to.
func (s *Server) serveConn(g *generation, conn net.Conn, known func()) {
	defer conn.Close()
	untie := context.AfterFunc(g.ctx, func() { _ = conn.Close() })
	defer untie()
	_ = conn.SetDeadline(time.Now().Add(handshakeTime)) // fails on a closed connection only
	joins, nc, err := wire.Joins(conn)
	if err != nil {
		known()
		return
	}
	if joins {
		s.serveJoined(g, nc, known, untie)
		return
	}
	_, channels, requests, err := ssh.NewServerConn(nc, g.config)
	known()
	if err != nil {
		s.Log.Debug("handshake", "err", err)
		return
	}
	_ = nc.SetDeadline(time.Time{})
	go s.serveRequests(g, requests)
	for nc := range channels {
		go s.serveChannel(g, nc)
	}
}

// serveRequests answers the global requests of an SSH connection.
func (s *Server) serveRequests(g *generation, requests <-chan *ssh.Request) {
	for r := range requests {
		var payload []byte
		if r.Type == wire.NewSession {
			payload = s.addSession(g, wire.MakeSession(), handshakeTime).Payload()
		}
		if r.WantReply {
			_ = r.Reply(payload != nil, payload) // fails with the connection
		}
	}
}

func (s *Server) serveChannel(g *generation, nc ssh.NewChannel) {
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
	s.serveConn(g, inner, func() {})
}
