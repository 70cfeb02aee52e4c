package mcpserver

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// everything is an Authenticator of one who may do all.
type everything struct{}

func (everything) Authenticate(context.Context, string) (sessions.Principal, error) {
	return sessions.Principal{Name: "a", Scopes: sessions.Scopes()}, nil
}

// A route that says no need is for nobody, and one that needs a scope for who
// has it.
func TestRouteWithoutANeedIsForNobody(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	s.build()
	w := newWeb(s, HTTP{Auth: everything{}})
	defer w.endStreams()
	for need, want := range map[sessions.Scope]int{
		"": http.StatusForbidden, "sandbox:fly": http.StatusForbidden, sessions.ScopeAdmin: http.StatusOK, anyone: http.StatusOK,
	} {
		served := false
		h := w.guarded(route{"GET /new", need, func(http.ResponseWriter, *http.Request) { served = true }})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/new", nil)
		r.Header.Set("Authorization", "Bearer x")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code != want || served != (want == http.StatusOK) {
			t.Errorf("need %q: status %d, served %v", need, rec.Code, served)
		}
		if said := rec.Header().Get("WWW-Authenticate"); want == http.StatusForbidden && !strings.Contains(said, `error="insufficient_scope"`) {
			t.Errorf("need %q: WWW-Authenticate %s", need, said)
		}
	}
}
