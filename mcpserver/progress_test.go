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

// What is copied is told in bytes: often to a program, now and then to others, and
// with how many there are if that is known.
func TestProgressOfBytes(t *testing.T) {
	copying := func(total int64) tools.Tool {
		return tools.Tool{Name: "copy", Scope: sessions.ScopeRead, Doing: "copying", Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			for done := range int64(101) {
				tools.Copied(ctx, tools.Moved{Done: 10 * done, Total: total})
				time.Sleep(30 * time.Millisecond)
			}
			return tools.Result{Outcome: "ok"}
		}}
	}
	for _, tt := range []struct {
		name    string
		program bool
		total   int64
		want    []string
	}{
		{"model", false, 1000, []string{"660.000 of 1000: copying: 660 bytes of 1000, 2 s"}},
		{"unknown", false, 0, []string{"2.000 of <nil>: copying: 660 bytes, 2 s"}},
		{"program", true, 1000, []string{
			"0.000 of 1000: copying: 0 bytes of 1000, 0 s", "60.000 of 1000: copying: 60 bytes of 1000, 0 s", "130.000 of 1000: copying: 130 bytes of 1000, 0 s",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tool := copying(tt.total)
				s := &Server{Log: slog.New(slog.DiscardHandler), Tools: []tools.Tool{tool}}
				s.build()
				client := &call{conn: &conn{id: "c"}, notes: make(chan mcp.JSONRPCNotification, 100)}
				meta := &mcp.Meta{ProgressToken: "tok", AdditionalFields: map[string]any{tools.BytesKey: tt.program}}
				req := mcp.CallToolRequest{Params: mcp.CallToolParams{Meta: meta}}
				if _, err := s.handler(tool)(s.mcp.WithContext(withLocalPrincipal(t.Context(), 1), client), req); err != nil {
					t.Fatal(err)
				}
				close(client.notes)
				var got []string
				for n := range client.notes {
					f := n.Params.AdditionalFields
					got = append(got, fmt.Sprintf("%.3f of %v: %v", f["progress"], f["total"], f["message"]))
					if m, ok := n.Params.Meta[MovedKey].(*tools.Moved); !ok || m.Total != tt.total {
						t.Errorf("told programs %v", n.Params.Meta)
					}
				}
				if tt.program && len(got) > len(tt.want) {
					if len(got) < 15 {
						t.Errorf("told %d times", len(got))
					}
					got = got[:len(tt.want)]
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("progress (-want +got):\n%s", diff)
				}
			})
		})
	}
}
