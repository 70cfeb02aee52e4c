package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// Each call is an event when it is answered, also one that is refused or panics.
func TestCallsAreEvents(t *testing.T) {
	var log strings.Builder
	var kept []string
	var full error
	s := &Server{Log: slog.New(slog.NewTextHandler(&log, nil)), Record: func(ctx context.Context, e sessions.Event) error {
		if ctx.Err() != nil {
			t.Errorf("%s: the context has ended: %v", e.Tool, ctx.Err())
		}
		if e.At.IsZero() || e.Duration <= 0 {
			t.Errorf("%s: at %v, took %v", e.Tool, e.At, e.Duration)
		}
		kept = append(kept, strings.Join([]string{string(e.What), e.Tool, e.Principal, e.Sandbox, e.Detail, e.Arguments}, "|"))
		return full
	}}
	record := func(args json.RawMessage) (string, string) { return "sb-said", strings.ToUpper(string(args)) }
	tool := func(name string, scope sessions.Scope, res tools.Result) tools.Tool {
		return tools.Tool{Name: name, Scope: scope, Record: record, Call: func(context.Context, json.RawMessage) tools.Result {
			if name == "panics" {
				panic("secret")
			}
			return res
		}}
	}
	made := tools.Result{Outcome: "ok", Sandbox: "sb-made"}
	s.Tools = append(s.Tools,
		tool("works", sessions.ScopeRead, made), tool("fails", sessions.ScopeRead, tools.Result{Outcome: "invalid", IsError: true}),
		tools.Tool{Name: "looks", Scope: sessions.ScopeRead, Unrecorded: true, Call: func(context.Context, json.RawMessage) tools.Result { return made }},
		tool("panics", sessions.ScopeRead, tools.Result{}), tool("admins", sessions.ScopeAdmin, made),
		tools.Tool{Name: "lookers", Scope: sessions.ScopeAdmin, Unrecorded: true, Record: record}, tool("full", sessions.ScopeRead, made),
	)
	s.build()
	ctx, cancel := context.WithCancel(sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "token:1", Scopes: []sessions.Scope{sessions.ScopeRead}}))
	defer cancel()
	for _, tl := range s.Tools {
		if tl.Name == "full" {
			full = errors.New("disk is full")
			cancel() // who asked has gone
		}
		res, err := s.handler(tl)(ctx, mcp.CallToolRequest{Params: mcp.CallToolParams{RawArguments: json.RawMessage("args")}})
		if err != nil || res.IsError != !slices.Contains([]string{"works", "looks", "full"}, tl.Name) {
			t.Errorf("%s: %+v, %v", tl.Name, res, err)
		}
	}
	want := []string{
		"call|works|token:1|sb-made|ok|ARGS", "call|fails|token:1|sb-said|invalid|ARGS", "call|panics|token:1|sb-said|panic|ARGS",
		"call|admins|token:1|sb-said|refused|ARGS", "call|lookers|token:1|sb-said|refused|ARGS", "call|full|token:1|sb-made|context canceled|ARGS",
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if !strings.Contains(log.String(), `msg="event lost" what=call tool=full`) {
		t.Errorf("log:\n%s", &log)
	}
}

// A call whose progress is told has the outcome that it had.
func TestOutcomeWithProgress(t *testing.T) {
	var kept []string
	s := &Server{Log: slog.New(slog.DiscardHandler), Record: func(_ context.Context, e sessions.Event) error {
		kept = append(kept, e.Detail)
		return nil
	}}
	works := tools.Tool{Name: "works", Scope: sessions.ScopeRead, Record: func(json.RawMessage) (string, string) { return "", "" }, Call: func(context.Context, json.RawMessage) tools.Result {
		return tools.Result{Outcome: "ok"}
	}}
	s.Tools = []tools.Tool{works}
	s.build()
	client := &call{conn: &conn{id: "c"}, notes: make(chan mcp.JSONRPCNotification, 1)}
	req := mcp.CallToolRequest{Params: mcp.CallToolParams{Meta: &mcp.Meta{ProgressToken: "tok"}}}
	if _, err := s.handler(works)(s.mcp.WithContext(withLocalPrincipal(t.Context(), 1), client), req); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(kept, []string{"ok"}) {
		t.Errorf("recorded %q, want ok", kept)
	}
}

// What is read is an event if somebody asks for it, and not if a subscription
// looks whether it has changed.
func TestReadsAreEvents(t *testing.T) {
	if recordedRead(looking, "sandbox://x") != nil {
		t.Error("what looks is recorded")
	}
	if _, got := recordedRead("resource", "sandbox://x?password=canary")(); got != `{"uri":"sandbox://x?password=[redacted]"}` {
		t.Errorf("recorded %s", got)
	}
}
