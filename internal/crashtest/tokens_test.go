package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// tokens are what an operator does with tokens, and their use.
func tokens() []operation {
	return []operation{
		{name: "create-token", before: then((*site).noToken), do: createToken, after: then((*site).tokenAgain)},
		{name: "use-token", before: then((*site).newToken), do: useToken, after: then((*site).tokenCounts)},
		{name: "revoke-token", before: then((*site).newToken), do: revokeToken, after: then((*site).revokeAgain)},
	}
}

// withHTTP makes a world with a daemon that is asked over HTTP, too.
func withHTTP(newWorld func(*testing.T, *stage.Stage) world) func(*testing.T, *stage.Stage) world {
	return func(t *testing.T, st *stage.Stage) world {
		t.Helper()
		w := newWorld(t, st)
		if err := st.AddConfig("http_listen: 127.0.0.1:0\nhttp_auth: token\n"); err != nil {
			t.Fatal(err)
		}
		return w
	}
}

const tokenName = "one"

func createToken(ctx context.Context, s *site) error {
	text, err := s.agentlab(ctx, "token", "create", tokenName)
	s.token = strings.TrimSpace(text)
	return err
}

func revokeToken(ctx context.Context, s *site) error {
	_, err := s.agentlab(ctx, "token", "revoke", tokenName)
	return err
}

// webAddress is where the daemon says it listens.
var webAddress = regexp.MustCompile(`msg="listening over HTTP" url=(\S+)`)

// useToken makes a call over HTTP.
func useToken(ctx context.Context, s *site) error {
	status, err := s.ask(ctx)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

// ask returns the status with which a call with the token is answered.
func (s *site) ask(ctx context.Context) (int, error) {
	m := webAddress.FindStringSubmatch(s.daemon.said())
	if m == nil {
		return 0, fmt.Errorf("the daemon does not say where it listens:\n%s", s.daemon.said())
	}
	const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m[1], bytes.NewReader([]byte(hello)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// live counts the tokens that count.
func (s *site) live(t *testing.T) int {
	t.Helper()
	text, err := s.agentlab(t.Context(), "token", "list", "--json")
	var list struct {
		Tokens []struct {
			State string `json:"state"`
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, tok := range list.Tokens {
		if tok.State == "live" {
			n++
		}
	}
	return n
}

func (s *site) noToken(t *testing.T) {
	t.Helper()
	if s.live(t) > 0 {
		if err := revokeToken(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) newToken(t *testing.T) {
	t.Helper()
	s.noToken(t)
	if err := createToken(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// tokenAgain asks for the token that was being made. If it was kept, its text is
// lost, and whoever asks is told how to get another.
func (s *site) tokenAgain(t *testing.T) {
	t.Helper()
	kept := s.live(t)
	err := createToken(t.Context(), s)
	switch {
	case kept > 1:
		t.Errorf("%d tokens were made", kept)
	case kept == 1 && (err == nil || !strings.Contains(err.Error(), "revoke it first")):
		t.Errorf("make it again: %v, want to be told to revoke the one that nobody was given", err)
	case kept == 0 && err != nil:
		t.Errorf("make it again: %v", err)
	}
	s.newToken(t)
	s.tokenCounts(t)
}

// tokenCounts looks whether the token, and no other, is good for a call.
func (s *site) tokenCounts(t *testing.T) {
	t.Helper()
	if err := useToken(t.Context(), s); err != nil {
		t.Errorf("the token does not count: %v", err)
	}
	if n := s.live(t); n != 1 {
		t.Errorf("%d tokens are live, want 1", n)
	}
}

// revokeAgain revokes the token that was being revoked.
func (s *site) revokeAgain(t *testing.T) {
	t.Helper()
	if err := revokeToken(t.Context(), s); err != nil {
		t.Errorf("revoke again: %v", err)
	}
	if n := s.live(t); n != 0 {
		t.Errorf("%d tokens are live", n)
	}
	if status, err := s.ask(t.Context()); err != nil || status != http.StatusUnauthorized {
		t.Errorf("the token is answered with %d, %v", status, err)
	}
}
