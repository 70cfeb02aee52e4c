package mcpserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

const (
	callMost      = 2 * time.Minute // a call is given up after it
	progressFirst = 2 * time.Second
	progressEvery = 5 * time.Second
)

// handler answers the calls of a tool.
func (s *Server) handler(t tools.Tool) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return toResult(s.perform(ctx, work{
			kind: "tool", name: t.Name, need: s.needOfTool(ctx, t.Name), doing: t.Doing, meta: req.Params.Meta,
			do:     func(ctx context.Context) tools.Result { return t.Call(ctx, req.Params.RawArguments) },
			record: recordedCall(t, req.Params.RawArguments),
			quiet:  t.Unrecorded,
		})), nil
	}
}

// work is what is done for a request: a call of a tool, the reading of a resource.
type work struct {
	kind, name string         // for the log
	need       sessions.Scope // of who asks
	doing      string         // for progress
	meta       *mcp.Meta      // of the request
	do         func(ctx context.Context) tools.Result
	record     func() (sandbox, arguments string) // for the event of it; nil is that it is none
	quiet      bool                               // it is one only if it is refused
}

// refusedOutcome is the outcome of what the caller may not do.
const refusedOutcome = "refused"

// perform is what all work passes: whether the caller may, a deadline, progress,
// recovery from a panic, an event, which is there before the answer, and one line
// in the log, which never has the arguments.
func (s *Server) perform(ctx context.Context, w work) tools.Result {
	start := time.Now()
	if err := s.allow(ctx, w.name, w.need); err != nil {
		s.happened(ctx, w, start, "", refusedOutcome)
		return tools.Result{IsError: true, Outcome: refusedOutcome, Content: []tools.Content{{Text: err.Error()}}}
	}
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	ctx, stop := s.progress(ctx, w)
	res := s.attempt(ctx, w)
	stop()
	who, _ := sessions.PrincipalFrom(ctx)
	outcome := res.Outcome
	if ctx.Err() != nil {
		outcome = ctx.Err().Error()
	}
	took := time.Since(start)
	s.happened(ctx, w, start, res.Sandbox, outcome)
	level := slog.LevelInfo
	if w.kind == looking { // nobody has asked just now
		level = slog.LevelDebug
	}
	s.Log.Log(ctx, level, "call", w.kind, w.name, "principal", who.Name, "sandbox", short(res.Sandbox), "request", requestID(ctx),
		"outcome", outcome, "ms", took.Milliseconds())
	if w.kind == "tool" {
		s.Watch.ToolCall(w.name, outcome, took)
	}
	return res
}

// attempt does the work and survives its panic.
func (s *Server) attempt(ctx context.Context, w work) (res tools.Result) {
	defer func() {
		if r := recover(); r != nil {
			text := fmt.Sprintf("%s: internal error (ref %s)", w.name, s.panicked(ctx, r))
			res = tools.Result{IsError: true, Outcome: "panic", Content: []tools.Content{{Text: text}}}
		}
	}()
	return w.do(ctx)
}

// panicked logs a panic with its stack and returns the reference to it.
func (s *Server) panicked(ctx context.Context, value any) (ref string) {
	ref = rand.Text()[:8]
	s.Log.ErrorContext(ctx, "panic", "ref", ref, "request", requestID(ctx), "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
	return ref
}

// internal logs an error that nobody but us must see, and returns the
// reference to it.
func (s *Server) internal(err error) (ref string) {
	ref = rand.Text()[:8]
	s.Log.Error("internal error", "ref", ref, "err", err)
	return ref
}

// progress tells the client that the work goes on and how far it is, if it
// wants to know. It stops when the function that it returns has returned. The
// work says in the context how far it is.
func (s *Server) progress(ctx context.Context, w work) (working context.Context, stop func()) {
	if w.meta == nil || w.meta.ProgressToken == nil {
		return ctx, func() {}
	}
	var step atomic.Pointer[string]
	working = tools.WithReport(ctx, func(now string) { step.Store(&now) })
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		start := time.Now()
		for wait := progressFirst; sleep(ctx, wait); wait = progressEvery {
			elapsed := int(time.Since(start).Seconds())
			message := fmt.Sprintf("%s, %d s", w.doing, elapsed)
			if now := step.Load(); now != nil {
				message = fmt.Sprintf("%s: %s, %d s", w.doing, *now, elapsed)
			}
			// An error means that the client reads too slowly: the next one will tell it.
			_ = s.mcp.SendNotificationToClient(ctx, "notifications/progress", map[string]any{
				"progressToken": w.meta.ProgressToken,
				"progress":      elapsed,
				"message":       message,
			})
		}
	}()
	return working, func() { cancel(); <-done }
}

// sleep waits for d and returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// toResult is a result as mcp-go wants it.
func toResult(res tools.Result) *mcp.CallToolResult {
	out := &mcp.CallToolResult{IsError: res.IsError, StructuredContent: res.Structured, Content: []mcp.Content{}}
	for _, c := range res.Content {
		if c.Data != nil {
			out.Content = append(out.Content, mcp.NewImageContent(base64.StdEncoding.EncodeToString(c.Data), c.MIME))
			continue
		}
		out.Content = append(out.Content, mcp.NewTextContent(c.Text))
	}
	if res.Meta != nil {
		out.Meta = &mcp.Meta{AdditionalFields: map[string]any{tools.MetaKey: res.Meta}}
	}
	return out
}

// mustJSON is for our own definitions, which don't depend on any input.
func mustJSON(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// short bounds what a caller made up before it is logged.
func short(s string) string { return s[:min(len(s), 40)] }
