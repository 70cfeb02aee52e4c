package mcpserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// callMost is how long a call may take if its tool doesn't say; then it is given up.
const callMost = 2 * time.Minute

// handler answers the calls of a tool.
func (s *Server) handler(t tools.Tool) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return toResult(s.perform(ctx, work{
			kind: "tool", name: t.Name, need: s.needOfTool(ctx, t.Name), doing: t.Doing, most: t.Most, meta: req.Params.Meta,
			do: func(ctx context.Context) tools.Result {
				return t.Call(withBytes(ctx, req.Params.Meta), req.Params.RawArguments)
			},
			record: recordedCall(t, req.Params.RawArguments),
			quiet:  t.Unrecorded,
		})), nil
	}
}

// withBytes tells the tools that the client is a program which moves bytes.
func withBytes(ctx context.Context, meta *mcp.Meta) context.Context {
	if meta != nil && meta.AdditionalFields[tools.BytesKey] == true {
		return tools.WithBytes(ctx)
	}
	return ctx
}

// work is what is done for a request: a call of a tool, the reading of a resource.
type work struct {
	kind, name string         // for the log
	need       sessions.Scope // of who asks
	doing      string         // for progress
	most       time.Duration  // that it may take; 0 is callMost
	meta       *mcp.Meta      // of the request
	do         func(ctx context.Context) tools.Result
	record     func() (sandbox, arguments string) // for the event of it; nil is that it is none
	quiet      bool                               // it is one only if it is refused
}

// perform is what all work passes: whether the caller may, a deadline, progress,
// recovery from a panic, an event, which is there before the answer, and one line
// in the log, which never has the arguments.
func (s *Server) perform(ctx context.Context, w work) tools.Result {
	ctx, end := s.trace(ctx, w)
	res, outcome := s.performed(ctx, w)
	end(outcome)
	return res
}

func (s *Server) performed(ctx context.Context, w work) (res tools.Result, outcome string) {
	start := time.Now()
	if err := s.allow(ctx, w.name, w.need); err != nil {
		res := tools.Refused(err.Error())
		s.happened(ctx, w, start, "", res.Outcome)
		return res, res.Outcome
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(w.most, callMost))
	defer cancel()
	working, stop := s.progress(ctx, w)
	res = s.attempt(working, w)
	stop() // which ends working, and not ctx
	who, _ := sessions.PrincipalFrom(ctx)
	outcome = res.Outcome
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
	return res, outcome
}

// trace begins the span of work that a client has asked for. What the request says
// of the client's trace counts more than what a header of it does.
//
// Source: SEP-414 of MCP, traceparent in _meta.
func (s *Server) trace(ctx context.Context, w work) (context.Context, func(outcome string)) {
	if s.Trace == nil || w.kind == looking {
		return ctx, func(string) {}
	}
	if w.meta != nil {
		ctx = s.Trace.From(ctx, func(key string) string {
			value, _ := w.meta.AdditionalFields[key].(string)
			return value
		})
	}
	return s.Trace.Request(ctx, w.kind+" "+w.name)
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
