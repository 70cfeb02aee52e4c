package mcpserver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// What a principal is refused for a limit is an event soon, and however much that is,
// one each ten minutes, with how often.
func TestRefusalsAreEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept []string
		w := NewWeb(&Server{Log: slog.New(slog.DiscardHandler), Record: func(_ context.Context, e sessions.Event) error {
			kept = append(kept, fmt.Sprint(e.Principal, " ", e.What, " ", e.Detail, " ", e.Arguments))
			return nil
		}}, HTTP{Limits: Limits{Rate: 0.01}}) // one at once
		ask := func(n int) {
			s := w.shares.of("alice")
			defer s.letGo()
			for range n {
				if s.enter(0) == nil {
					s.leave(0)
				}
			}
		}
		want := func(now ...string) {
			t.Helper()
			w.Sweep()
			if !slices.Equal(kept, now) {
				t.Errorf("kept %q, want %q", kept, now)
			}
			kept = nil
		}
		want()
		ask(6)
		want("alice refused rate {\"count\":5}")
		ask(3)
		want()
		time.Sleep(tellEvery)
		want("alice refused rate {\"count\":3}")
		time.Sleep(tellEvery)
		want()
		if _, principals := w.Left(); principals != 0 {
			t.Errorf("%d principals are remembered", principals)
		}
		ask(2)
		w.keepExcesses(true)
		ask(1)
		w.keepExcesses(true)
		want("alice refused rate {\"count\":1}", "alice refused rate {\"count\":1}")
	})
}
