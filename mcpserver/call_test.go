package mcpserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// A call of a tool that never returns by itself ends, and until then whoever
// wants to know is told that it goes on.
func TestCallThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		hang := tools.Tool{Name: "hang", Scope: sessions.ScopeRead, Doing: "hanging", Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			tools.Report(ctx, "first step")
			time.Sleep(time.Second)
			tools.Report(ctx, "first step, number 2")
			time.Sleep(9 * time.Second)
			tools.Report(ctx, "second step")
			<-ctx.Done()
			return tools.Result{Outcome: "over"}
		}}
		s.Tools = []tools.Tool{hang}
		s.build()
		client := &call{conn: &conn{id: "c"}, notes: make(chan mcp.JSONRPCNotification, 100)}
		req := mcp.CallToolRequest{Params: mcp.CallToolParams{Meta: &mcp.Meta{ProgressToken: "tok"}}}
		if _, err := s.handler(hang)(s.mcp.WithContext(withLocalPrincipal(t.Context(), 1), client), req); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 2*time.Minute {
			t.Errorf("given up after %v, want 2m", took)
		}
		close(client.notes)
		var got, want []string
		for n := range client.notes {
			f := n.Params.AdditionalFields
			got = append(got, fmt.Sprintf("%s %v %.1f %v %v", n.Method, f["progressToken"], f["progress"], f["message"], n.Params.Meta))
		}
		told := func(at int, step, detail string) {
			want = append(want, fmt.Sprintf("notifications/progress tok %d.0 hanging: %s%s, %d s map[agentlab.dev/step:%s]", at, step, detail, at, step))
		}
		told(0, "first step", "")
		told(2, "first step", ", number 2")
		told(7, "first step", ", number 2")
		told(10, "second step", "")
		for at := 12; at < 120; at += 5 {
			told(at, "second step", "")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
	})
}

// A tool may say that its calls take longer.
func TestCallThatMayTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		long := tools.Tool{Name: "long", Scope: sessions.ScopeRead, Most: time.Hour, Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			<-ctx.Done()
			return tools.Result{Outcome: "over"}
		}}
		s := &Server{Log: slog.New(slog.DiscardHandler), Tools: []tools.Tool{long}}
		s.build()
		if _, err := s.handler(long)(withLocalPrincipal(t.Context(), 1), mcp.CallToolRequest{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Hour {
			t.Errorf("given up after %v, want 1h", took)
		}
	})
}

// Who did not ask for progress gets none.
func TestNoProgressUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		s.build()
		client := &call{conn: &conn{id: "c"}, notes: make(chan mcp.JSONRPCNotification, 1)}
		slow := tools.Tool{Name: "slow", Call: func(context.Context, json.RawMessage) tools.Result {
			time.Sleep(time.Minute)
			return tools.Result{Outcome: "ok"}
		}}
		if _, err := s.handler(slow)(s.mcp.WithContext(withLocalPrincipal(t.Context(), 1), client), mcp.CallToolRequest{}); err != nil {
			t.Fatal(err)
		}
		if len(client.notes) != 0 {
			t.Errorf("told %+v", <-client.notes)
		}
	})
}
