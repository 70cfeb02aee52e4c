// Package mcpserver serves tools to MCP clients: who asks, how much at a time,
// and in which of the protocol's two eras (with the initialize handshake up to
// 2025-11-25, without it from 2026-07-28 on).
//
// The protocol itself is mcp-go's, through MCPServer.HandleMessage. The
// transports below it are ours: JSON lines over a Unix socket, streamable HTTP
// and that of 2024. mcp-go's own stdio server serves one client per process,
// five calls at a time, and answers calls that were cancelled. Its HTTP servers
// share one channel of notifications among the requests of a session, which
// loses some and sends others elsewhere, let one client cancel another's call,
// and keep sessions for whoever names them. Here a conn is a client, a call is
// a request of its, and an outlet is where its messages go; that is the same
// on every transport, and so are limits, cancellation and panics.
package mcpserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// Server serves tools. Its exported fields may be changed until the first
// method call.
type Server struct {
	Tools        []tools.Tool
	Resources    *tools.Resources // nil is none
	Prompts      []tools.Prompt
	Completer    *tools.Completer // nil proposes nothing
	Files        *tools.Files     // for who has a URL
	Terminals    Terminals        // nil is none
	Instructions string
	Version      string
	Log          *slog.Logger
	WriteTimeout time.Duration // for a client to read one message, before it is disconnected; 0 is 30 s
	Grace        time.Duration // how long calls may go on when the server ends, on every transport; 0 is 5 s

	Watch Watcher      // nil is nobody
	Trace *span.Tracer // of what clients ask for; nil traces nothing
	// Record keeps the event of a call, a read or a transfer; nil keeps none.
	Record func(ctx context.Context, e sessions.Event) error

	once sync.Once
	mcp  *server.MCPServer

	byName  map[string]tools.Tool
	tickets *auth.Tickets
	crowd   crowd
	clients atomic.Int64 // at sockets
	conns   atomic.Int64 // of all transports

	instructions atomic.Pointer[string]
	defining     sync.Mutex
	defined      []byte // the definitions of tools as they were sent last

	websMu sync.Mutex
	webs   map[*web]bool // serving
}

// Clients returns how many connections are being served on sockets.
func (s *Server) Clients() int { return int(s.clients.Load()) }

// Conns returns how many clients there are on all transports. A session over
// HTTP counts until it ends, and a request without one until it is answered.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// ServeListener serves each connection to ln, which must be a Unix socket,
// until ctx ends or ln fails. It closes ln. Then new calls are refused and those
// running may go on for [Server.Grace]. It returns when all connections are
// done: nil if it was ctx that ended it.
//
// Only processes of our own user are served; the principal of their calls is
// "local:<uid>".
func (s *Server) ServeListener(ctx context.Context, ln net.Listener) error {
	s.once.Do(s.build)
	ctx, end := context.WithCancel(ctx)
	calls, cancelCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelCalls()
	var conns sync.WaitGroup
	defer func() {
		end()
		defer time.AfterFunc(s.grace(), cancelCalls).Stop()
		conns.Wait()
	}()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept: %w", err)
		}
		if err != nil { // out of file descriptors, mostly: it passes
			s.Log.Warn("accept", "err", err)
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		s.clients.Add(1)
		conns.Go(func() {
			defer s.clients.Add(-1)
			s.serveUnix(calls, c, ctx.Done())
		})
	}
}

// serveUnix checks who is at the other end and serves it until ending.
func (s *Server) serveUnix(ctx context.Context, c net.Conn, ending <-chan struct{}) {
	defer c.Close()
	unix, ok := c.(*net.UnixConn)
	if !ok {
		s.Log.Error("connection is not of a Unix socket", "type", fmt.Sprintf("%T", c))
		return
	}
	uid, pid, err := peer(unix)
	if err != nil {
		s.Log.Warn("credentials of a peer", "err", err)
		return
	}
	if uid != os.Getuid() {
		s.Log.Warn("connection refused: another user's", "uid", uid, "pid", pid)
		return
	}
	s.serveLines(withLocalPrincipal(ctx, uid), unix, ending)
}

func (s *Server) writeTimeout() time.Duration {
	if s.WriteTimeout > 0 {
		return s.WriteTimeout
	}
	return 30 * time.Second
}

func (s *Server) grace() time.Duration {
	if s.Grace > 0 {
		return s.Grace
	}
	return 5 * time.Second
}

// build makes the MCPServer.
func (s *Server) build() {
	hooks := s.onlyWhatIsAllowed()
	hooks.AddOnError(func(ctx context.Context, _ any, _ mcp.MCPMethod, _ any, err error) {
		// Its text names types of mcp-go's.
		if bad, ok := errors.AsType[*server.UnparsableMessageError](err); ok {
			refuse(ctx, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: malformed(bad)})
		}
	})
	s.mcp = server.NewMCPServer("agentlab", s.Version,
		server.WithTitle("AgentLab"),
		server.WithDescription("Disposable Linux machines for agents"),
		server.WithToolCapabilities(true),
		server.WithLogging(), // a level may be set; nothing is logged to clients
		server.WithHooks(hooks),
	)
	if s.Watch == nil {
		s.Watch = unwatched{}
	}
	s.tickets = auth.NewTickets(time.Now)
	s.byName = map[string]tools.Tool{}
	for _, t := range s.Tools {
		s.byName[t.Name] = t
	}
	s.define(s.Tools, s.Instructions)
	hooks.AddAfterInitialize(func(_ context.Context, _ any, _ *mcp.InitializeRequest, res *mcp.InitializeResult) {
		res.Instructions = *s.instructions.Load()
	})
	hooks.AddAfterDiscover(func(_ context.Context, _ any, _ *mcp.DiscoverRequest, res *mcp.DiscoverResult) {
		res.Instructions = *s.instructions.Load()
	})
	s.offer(hooks)
}

// offer registers what there is besides tools.
func (s *Server) offer(hooks *server.Hooks) {
	if s.Resources != nil {
		server.WithResourceCapabilities(true, false)(s.mcp)
		s.offerResources(hooks)
		s.offerSubscriptions(hooks)
	}
	if len(s.Prompts) > 0 {
		server.WithPromptCapabilities(false)(s.mcp)
		s.offerPrompts()
	}
	if s.Completer != nil {
		server.WithCompletions()(s.mcp)
		server.WithResourceCompletionProvider(completion{s})(s.mcp)
		server.WithPromptCompletionProvider(completion{s})(s.mcp)
	}
}

// definition is a tool as mcp-go wants it.
func definition(t tools.Tool) mcp.Tool {
	def := mcp.NewToolWithRawSchema(t.Name, t.Description, mustJSON(t.Input))
	def.Title = t.Title
	if t.Output != nil {
		def.RawOutputSchema = mustJSON(t.Output)
	}
	a := t.Annotations
	def.Annotations = mcp.ToolAnnotation{
		ReadOnlyHint: &a.ReadOnly, DestructiveHint: &a.Destructive, IdempotentHint: &a.Idempotent, OpenWorldHint: &a.OpenWorld,
	}
	if t.Meta != nil {
		def.Meta = &mcp.Meta{AdditionalFields: t.Meta}
	}
	return def
}
