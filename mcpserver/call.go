package mcpserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime/debug"
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

// handler is what every call of a tool passes: a deadline, progress, recovery
// from a panic, and one line in the log, which never has the arguments.
func (s *Server) handler(t tools.Tool) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, callMost)
		defer cancel()
		stop := s.progress(ctx, req, t.Doing)
		res := s.call(ctx, t, req.Params.RawArguments)
		stop()
		who, _ := sessions.PrincipalFrom(ctx)
		outcome := res.Outcome
		if ctx.Err() != nil {
			outcome = ctx.Err().Error()
		}
		s.Log.Info("call", "tool", t.Name, "principal", who.Name, "sandbox", short(res.Sandbox), "request", requestID(ctx),
			"outcome", outcome, "ms", time.Since(start).Milliseconds())
		return toResult(res), nil
	}
}

// call calls the tool and survives its panic.
func (s *Server) call(ctx context.Context, t tools.Tool, args json.RawMessage) (res tools.Result) {
	defer func() {
		if r := recover(); r != nil {
			text := fmt.Sprintf("%s: internal error (ref %s)", t.Name, s.panicked(ctx, r))
			res = tools.Result{IsError: true, Outcome: "panic", Content: []tools.Content{{Text: text}}}
		}
	}()
	return t.Call(ctx, args)
}

// panicked logs a panic with its stack and returns the reference to it.
func (s *Server) panicked(ctx context.Context, value any) (ref string) {
	ref = rand.Text()[:8]
	s.Log.ErrorContext(ctx, "panic", "ref", ref, "request", requestID(ctx), "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
	return ref
}

// progress tells the client that the call goes on, if it wants to know. It
// stops when the function that it returns has returned.
func (s *Server) progress(ctx context.Context, req mcp.CallToolRequest, doing string) (stop func()) {
	if req.Params.Meta == nil || req.Params.Meta.ProgressToken == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		start := time.Now()
		for wait := progressFirst; sleep(ctx, wait); wait = progressEvery {
			elapsed := int(time.Since(start).Seconds())
			// An error means that the client reads too slowly: the next one will tell it.
			_ = s.mcp.SendNotificationToClient(ctx, "notifications/progress", map[string]any{
				"progressToken": req.Params.Meta.ProgressToken,
				"progress":      elapsed,
				"message":       fmt.Sprintf("%s, %d s", doing, elapsed),
			})
		}
	}()
	return func() { cancel(); <-done }
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
		if c.MIME != "" {
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
