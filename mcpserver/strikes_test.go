package mcpserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// onlyGood knows the token "good".
type onlyGood struct{}

func (onlyGood) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token != "good" {
		return sessions.Principal{}, ErrUnauthenticated
	}
	return sessions.Principal{Name: "a", Scopes: sessions.Scopes()}, nil
}

// guesser asks from an address.
type guesser struct {
	t *testing.T
	h http.Handler
}

func (g guesser) ask(from, token string) *httptest.ResponseRecorder {
	g.t.Helper()
	r := httptest.NewRequestWithContext(g.t.Context(), http.MethodGet, "http://localhost/new", nil)
	r.RemoteAddr = from
	r.Header.Set("X-Forwarded-For", fmt.Sprint(time.Now().UnixNano())) // which anybody can say
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	g.h.ServeHTTP(rec, r)
	return rec
}

func (g guesser) want(from, token string, status int) *httptest.ResponseRecorder {
	g.t.Helper()
	rec := g.ask(from, token)
	if rec.Code != status {
		g.t.Fatalf("%q from %s: status %d %s, want %d", token, from, rec.Code, rec.Body, status)
	}
	return rec
}

// Who shows one token after the other is told to wait. Nobody else notices, nor
// does who has a token at the same address.
func TestGuessingIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		s.build()
		w := newWeb(s, HTTP{Auth: onlyGood{}})
		defer w.endStreams()
		g := guesser{t, w.guarded(route{"GET /new", anyone, func(http.ResponseWriter, *http.Request) {}})}
		for i := range strikesAtOnce {
			g.want(fmt.Sprintf("192.0.2.1:%d", 1000+i), "bad", http.StatusUnauthorized)
		}
		rec := g.want("192.0.2.1:1", "bad", http.StatusTooManyRequests)
		if got := rec.Header().Get("Retry-After"); got != "3" || !strings.Contains(rec.Body.String(), "20 tokens that are not valid came from this address, and then one each 3s; try again in 3 s") {
			t.Errorf("Retry-After %s, %s", got, rec.Body)
		}
		g.want("192.0.2.1:1", "good", http.StatusOK)
		g.want("192.0.2.1:1", "", http.StatusUnauthorized) // which is how clients learn where to get one
		g.want("192.0.2.2:1", "bad", http.StatusUnauthorized)
		time.Sleep(strikeEvery)
		g.want("[::ffff:192.0.2.1]:1", "bad", http.StatusUnauthorized)
		g.want("192.0.2.1:1", "bad", http.StatusTooManyRequests)
		for i := range strikesAtOnce { // one host has many of these
			g.want(fmt.Sprintf("[2001:db8::%d]:1", i), "bad", http.StatusUnauthorized)
		}
		g.want("[2001:db8::ffff]:1", "bad", http.StatusTooManyRequests)
		g.want("[2001:db8:0:1::1]:1", "bad", http.StatusUnauthorized)
		time.Sleep(strikesAtOnce * strikeEvery)
		w.sweep()
		if n := len(w.strikes.byAddr); n != 0 {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}

// However many addresses there are, what is remembered of them is bounded.
func TestGuessersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s strikes
		for i := range 2 * maxStrikers {
			s.strike(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
		}
		if n := len(s.byAddr); n > maxStrikers+1 {
			t.Errorf("%d addresses are remembered, want at most %d", n, maxStrikers+1)
		}
		if s.strike("10.9.9.9:1") == 0 {
			t.Error("one more address is not limited together with all that are not remembered")
		}
	})
}
