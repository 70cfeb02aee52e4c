package mcpserver

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// A terminal is for who may write, says what is wrong, and is recorded.
func TestTerminalIsGuarded(t *testing.T) {
	ask := func(send func(w *terminal.Writer)) *bytes.Buffer {
		var b bytes.Buffer
		send(terminal.NewWriter(&b))
		return &b
	}
	start := ask(func(w *terminal.Writer) {
		_ = w.SendJSON(terminal.Start, terminal.Request{Sandbox: "sb-x", Command: "true"})
	}).Bytes()
	for _, tt := range []struct {
		scope  sessions.Scope
		sent   []byte
		kind   string
		text   string
		events int
	}{
		{sessions.ScopeRead, start, "refused", "terminal needs the scope sandbox:write", 1},
		{sessions.ScopeWrite, start, "unavailable", "not usable until its operator mends it", 1},
		{sessions.ScopeWrite, ask(func(w *terminal.Writer) { _ = w.Send(terminal.Input, nil) }).Bytes(), "invalid", "want 1 first", 0},
		{sessions.ScopeWrite, ask(func(w *terminal.Writer) { _ = w.Send(terminal.Start, []byte("x")) }).Bytes(), "invalid", "malformed", 0},
		{sessions.ScopeWrite, []byte("GET / HTTP/1.1\r\n\r\n"), "invalid", "malformed", 0},
	} {
		var events []sessions.Event
		log := slog.New(slog.DiscardHandler)
		s := &Server{Log: log, Terminals: &tools.Terminals{Log: log, Open: func(context.Context) (*sessions.Manager, error) { return nil, io.ErrUnexpectedEOF }}}
		s.Record = func(_ context.Context, e sessions.Event) error { events = append(events, e); return nil }
		ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "p", Scopes: []sessions.Scope{tt.scope}})
		var out bytes.Buffer
		s.terminal(ctx, bytes.NewReader(tt.sent), &out)
		kind, part, err := terminal.Read(&out)
		if kind != terminal.Failed || err != nil {
			t.Fatalf("kind %d, %v", kind, err)
		}
		f, err := terminal.Decode[terminal.Failure](part)
		if err != nil || f.Kind != tt.kind || !strings.Contains(f.Text, tt.text) {
			t.Errorf("got %+v, %v; want %s, %s", f, err, tt.kind, tt.text)
		}
		if len(events) != tt.events || len(events) == 1 && (events[0].Tool != "terminal" || events[0].Sandbox != "sb-x" || events[0].Detail != tt.kind) {
			t.Errorf("%s: events %+v", tt.text, events)
		}
	}
}
