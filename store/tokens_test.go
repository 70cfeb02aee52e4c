package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func token(id, name string) auth.Token {
	return auth.Token{
		ID: id, Name: name, Hash: [32]byte{0, 1, 31: 9}, Scopes: []sessions.Scope{sessions.ScopeRead, sessions.ScopeWrite},
		Quota: sessions.Quota{Sandboxes: 3, MemoryMB: 4096}, Created: noon, Expires: noon.Add(time.Hour),
	}
}

func TestTokenSurvivesReopening(t *testing.T) {
	db, path := open(t)
	want := token("tok-a", "ci")
	used := noon.Add(time.Minute)
	if err := errors.Join(db.AddToken(t.Context(), want, "local:1"), db.TokenUsed(t.Context(), "tok-a", used), db.Close()); err != nil {
		t.Fatal(err)
	}
	db = reopen(t, path)
	want.Used = used
	got, err := db.Token(t.Context(), "tok-a")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Token (-want +got):\n%s%v", diff, err)
	}
	if _, err := db.Token(t.Context(), "tok-b"); !errors.Is(err, auth.ErrNoToken) {
		t.Errorf("of an unknown id: %v", err)
	}
	list, err := db.Tokens(t.Context())
	if diff := cmp.Diff([]auth.Token{want}, list); err != nil || diff != "" {
		t.Errorf("Tokens (-want +got):\n%s%v", diff, err)
	}
}

// A name is of one live token at a time; what has expired or was revoked frees it.
func TestTokenNames(t *testing.T) {
	db, _ := open(t)
	later := func(id string, at time.Time) auth.Token {
		tok := token(id, "ci")
		tok.Created, tok.Expires = at, time.Time{}
		return tok
	}
	for _, step := range []struct {
		tok  auth.Token
		want error
	}{
		{token("tok-a", "ci"), nil},
		{later("tok-b", noon.Add(time.Hour-1)), auth.ErrNameTaken},
		{later("tok-b", noon.Add(time.Hour)), nil},
		{later("tok-c", noon.AddDate(1, 0, 0)), auth.ErrNameTaken},
		{token("tok-d", "other"), nil},
	} {
		if err := db.AddToken(t.Context(), step.tok, "local:1"); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Fatalf("AddToken(%s): %v, want %v", step.tok.ID, err, step.want)
		}
	}
	revoked, err := db.RevokeTokens(t.Context(), "ci", noon, "local:1")
	if err != nil || len(revoked) != 2 {
		t.Fatalf("RevokeTokens: %+v, %v; want both of that name", revoked, err)
	}
	if err := db.AddToken(t.Context(), later("tok-c", noon), "local:1"); err != nil {
		t.Error(err)
	}
}

// A revocation keeps the time of the first, and says when there was nothing to do.
func TestTokenIsRevokedOnce(t *testing.T) {
	db, path := open(t)
	if err := db.AddToken(t.Context(), token("tok-a", "ci"), "local:1"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		at := noon.Add(time.Duration(i+1) * time.Minute)
		if revoked, err := db.RevokeTokens(t.Context(), "tok-a", at, "local:2"); err != nil || len(revoked) != want {
			t.Errorf("RevokeTokens: %+v, %v; want %d", revoked, err, want)
		}
	}
	if tok, err := db.Token(t.Context(), "tok-a"); err != nil || !tok.Revoked.Equal(noon.Add(time.Minute)) {
		t.Errorf("revoked %v, %v", tok.Revoked, err)
	}
	if _, err := db.RevokeTokens(t.Context(), "tok-b", noon, ""); !errors.Is(err, auth.ErrNoToken) {
		t.Errorf("of an unknown id: %v", err)
	}
	want := []string{"token_create   tok-a ci", "token_revoke   tok-a ci"}
	if diff := cmp.Diff(want, events(t, path, "")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A database of the first release is brought up to date, and keeps what it has.
func TestOldDatabaseIsBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agentlab.db")
	first, err := os.ReadFile("migrations/001_sandboxes.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, stmt := range []string{
		string(first), "PRAGMA user_version = 1",
		"INSERT INTO sandboxes VALUES ('sb-1', '', 'local:1', 'small', 'local', 'READY', '', 'h', '', '', '', 1, 2, 3, 4, 0, 1, 100, 100, 'none')",
	} {
		if _, err := raw(t, path).ExecContext(t.Context(), stmt); err != nil {
			t.Fatal(err)
		}
	}
	db := reopen(t, path)
	if err := db.AddToken(t.Context(), token("tok-a", "ci"), "local:1"); err != nil {
		t.Error(err)
	}
	if sb, err := db.Sandbox(t.Context(), "sb-1"); err != nil || sb.State != sessions.Ready {
		t.Errorf("sandbox %+v, %v", sb, err)
	}
}
