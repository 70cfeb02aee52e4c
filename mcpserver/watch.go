package mcpserver

import (
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// Watcher is told what happens, to count it. Each text is one of few, and none
// says who asks or for what.
type Watcher interface {
	// ToolCall is a call of one of Tools that has ended, with the outcome as the
	// log has it.
	ToolCall(tool, outcome string, took time.Duration)
	// Transfer is an "upload" or "download" by URL that has ended, and how many
	// bytes of the file it has moved.
	Transfer(direction, outcome string, bytes int64, took time.Duration)
	// LimitRefusal is a request refused for a limit of who asks: "rate", "calls",
	// "connection_calls", "streams", "bodies" or "subscriptions"; or for that of
	// all "connections".
	LimitRefusal(limit string)
	// AuthFailure is a request over HTTP from somebody unknown: the token is
	// "missing" or "invalid" or could not be checked ("unavailable"), or the
	// "ticket" of a URL is not valid.
	AuthFailure(reason string)
}

// unwatched is the Watcher of nobody.
type unwatched struct{}

func (unwatched) ToolCall(string, string, time.Duration)        {}
func (unwatched) Transfer(string, string, int64, time.Duration) {}
func (unwatched) LimitRefusal(string)                           {}
func (unwatched) AuthFailure(string)                            {}

// limited counts a refusal, if it is for a limit.
func (s *Server) limited(problem *mcp.JSONRPCErrorDetails) {
	if when, ok := problem.Data.(retry); ok && when.limit != "" {
		s.Watch.LimitRefusal(when.limit)
	}
}

// HTTPConns returns how many connections over HTTP are open.
func (s *Server) HTTPConns() int {
	return s.sumWebs(func(w *web) int { return int(w.conns.Load()) })
}

// HTTPSessions returns how many sessions over HTTP have not ended. From
// 2026-07-28 on there are none.
func (s *Server) HTTPSessions() int {
	return s.sumWebs(func(w *web) int { return w.sessions.len() })
}

func (s *Server) sumWebs(of func(*web) int) (n int) {
	s.websMu.Lock()
	defer s.websMu.Unlock()
	for w := range s.webs {
		n += of(w)
	}
	return n
}

// serving makes the connections and sessions of w count until done.
func (s *Server) serving(w *web) (done func()) {
	s.websMu.Lock()
	defer s.websMu.Unlock()
	if s.webs == nil {
		s.webs = map[*web]bool{}
	}
	s.webs[w] = true
	return func() {
		s.websMu.Lock()
		defer s.websMu.Unlock()
		delete(s.webs, w)
	}
}
