package mcpserver

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// Who has subscribed is told of each change once, and of none after that.
func TestSubscriberIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var description atomic.Pointer[string] // of the profile, which the resource shows
		describe := func(text string) { description.Store(&text) }
		describe("first")
		open := func(context.Context) (*sessions.Manager, error) {
			return &sessions.Manager{Profiles: []sessions.Profile{{Name: "p", Description: *description.Load()}}}, nil
		}
		s := &Server{Log: slog.New(slog.DiscardHandler), Resources: tools.AllResources(open, slog.New(slog.DiscardHandler))}
		s.build()
		c := s.connect(t.Context(), nil)
		ask := func(method string) {
			r := newCall(c, nil, message{}, 0)
			ctx := s.mcp.WithContext(sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "a", Scopes: []sessions.Scope{sessions.ScopeRead}}), r)
			answer := s.mcp.HandleMessage(ctx, []byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{"uri":"sandbox://profiles"}}`))
			if _, ok := answer.(mcp.JSONRPCResponse); !ok {
				t.Fatalf("%s: %+v", method, answer)
			}
		}
		told := func(want int) {
			t.Helper()
			time.Sleep(3 * watchEvery)
			synctest.Wait()
			if len(c.notes) != want {
				t.Fatalf("%d notifications, want %d", len(c.notes), want)
			}
			for range want {
				n := <-c.notes
				if n.Method != "notifications/resources/updated" || n.Params.AdditionalFields["uri"] != "sandbox://profiles" {
					t.Errorf("told %+v", n)
				}
			}
		}
		ask("resources/subscribe")
		ask("resources/subscribe")
		told(0)
		describe("second")
		told(1)
		told(0)
		ask("resources/unsubscribe")
		describe("third")
		told(0)
		ask("resources/subscribe")
		synctest.Wait()
		c.close() // and with the client its subscriptions end
		describe("fourth")
		told(0)
	})
}
