package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// office is an installation's tokens in a real store, with a clock to turn.
type office struct {
	*auth.Tokens
	t    *testing.T
	path string
	now  time.Time
	log  bytes.Buffer
	gone []string // what Revoked was told
}

func newOffice(t *testing.T) *office {
	o := &office{t: t, path: filepath.Join(t.TempDir(), "agentlab.db"), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	db, err := store.Open(t.Context(), o.path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	o.Tokens = &auth.Tokens{
		Store: db, Log: slog.New(slog.NewTextHandler(&o.log, nil)), Now: func() time.Time { return o.now },
		Revoked: func(principal string) { o.gone = append(o.gone, principal) },
	}
	return o
}

func (o *office) ctx() context.Context {
	return sessions.WithPrincipal(o.t.Context(), sessions.Principal{Name: "local:1", Scopes: []sessions.Scope{sessions.ScopeAdmin}})
}

func (o *office) create(name string, ttl time.Duration) (redact.String, auth.Token) {
	o.t.Helper()
	text, tok, err := o.Create(o.ctx(), auth.Request{Name: name, Scopes: []string{"sandbox:write"}, TTL: ttl, Quota: sessions.Quota{Sandboxes: 2, MemoryMB: 300}})
	if err != nil {
		o.t.Fatal(err)
	}
	return text, tok
}

// wants checks whose a token is; refused is that it is not valid, and the log's
// reason has this text.
func (o *office) wants(text redact.String, name, refused string) {
	o.t.Helper()
	p, err := o.Authenticate(o.ctx(), text)
	if refused != "" {
		if !errors.Is(err, auth.ErrUnauthenticated) || !strings.Contains(err.Error(), refused) || p.Name != "" {
			o.t.Errorf("%+v, %v; want it refused: %s", p, err, refused)
		}
		return
	}
	want := sessions.Principal{Name: name, Scopes: []sessions.Scope{sessions.ScopeWrite}, Quota: sessions.Quota{Sandboxes: 2, MemoryMB: 300}, Expires: p.Expires}
	if diff := cmp.Diff(want, p); err != nil || diff != "" {
		o.t.Errorf("principal (-want +got):\n%s%v", diff, err)
	}
}

func TestTokenLives(t *testing.T) {
	o := newOffice(t)
	text, tok := o.create("ci", time.Hour)
	o.wants(text, "token:ci/"+tok.ID, "")
	if p, err := o.Authenticate(o.ctx(), text); err != nil || !p.Expires.Equal(o.now.Add(time.Hour)) {
		t.Errorf("its holder's time is over at %v, error %v", p.Expires, err)
	}
	o.now = o.now.Add(time.Hour - 1)
	o.wants(text, "token:ci/"+tok.ID, "")
	o.now = o.now.Add(1)
	o.wants(text, "", "expired")

	forever, tok := o.create("ci", 0) // the name of one that has expired is free
	o.now = o.now.AddDate(50, 0, 0)
	o.wants(forever, "token:ci/"+tok.ID, "")
}

func TestOnlyTheWholeSecretCounts(t *testing.T) {
	o := newOffice(t)
	a, tok := o.create("a", 0)
	b, _ := o.create("b", 0)
	o.wants(a, "token:a/"+tok.ID, "")
	o.wants(auth.Forge(a, b), "", "wrong secret")
	unknown, _ := auth.NewSecret()
	o.wants(unknown, "", "there is no tok-")
	o.wants(a[:len(a)-1], "", "cut off")
}

// A revocation acts on the next call, also when the token was known before.
func TestRevoke(t *testing.T) {
	for _, by := range []string{"name", "id"} {
		t.Run(by, func(t *testing.T) {
			o := newOffice(t)
			text, tok := o.create("ci", 0)
			other, _ := o.create("other", 0)
			principal := tok.Principal().Name
			o.wants(text, principal, "")
			ref := map[string]string{"name": tok.Name, "id": tok.ID}[by]
			revoked, err := o.Revoke(o.ctx(), ref)
			if err != nil || len(revoked) != 1 || revoked[0].ID != tok.ID || !revoked[0].Revoked.Equal(o.now) {
				t.Fatalf("Revoke: %+v, %v", revoked, err)
			}
			o.wants(text, "", "revoked")
			if diff := cmp.Diff([]string{principal}, o.gone); diff != "" {
				t.Errorf("told of (-want +got):\n%s", diff)
			}
			if again, err := o.Revoke(o.ctx(), ref); err != nil || len(again) != 0 {
				t.Errorf("Revoke again: %+v, %v", again, err)
			}
			if p, err := o.Authenticate(o.ctx(), other); err != nil || p.Name == principal {
				t.Errorf("the other token: %+v, %v", p, err)
			}
		})
	}
}

// A call that was reading the record while it was revoked must not keep the
// token alive for those that come after it.
func TestRevokeWhileItIsRead(t *testing.T) {
	o := newOffice(t)
	text, _ := o.create("ci", 0)
	o.Store = &slowStore{Store: o.Store, read: func() {
		if _, err := o.Revoke(o.ctx(), "ci"); err != nil {
			t.Error(err)
		}
	}}
	_, _ = o.Authenticate(o.ctx(), text)
	o.wants(text, "", "revoked")
}

// slowStore calls read, once, between reading a record and returning it.
type slowStore struct {
	auth.Store
	once sync.Once
	read func()
}

func (s *slowStore) Token(ctx context.Context, id string) (auth.Token, error) {
	tok, err := s.Store.Token(ctx, id)
	s.once.Do(s.read)
	return tok, err
}

// The next holder of a name is somebody else.
func TestANameIsNotAnIdentity(t *testing.T) {
	o := newOffice(t)
	_, first := o.create("ci", 0)
	if _, err := o.Revoke(o.ctx(), "ci"); err != nil {
		t.Fatal(err)
	}
	text, second := o.create("ci", 0)
	if first.Principal().Name == second.Principal().Name {
		t.Errorf("both are %s", first.Principal().Name)
	}
	o.wants(text, second.Principal().Name, "")
}

func TestCreateRefuses(t *testing.T) {
	o := newOffice(t)
	o.create("taken", 0)
	read := []string{"sandbox:read"}
	for _, tt := range []struct {
		req  auth.Request
		want string
	}{
		{auth.Request{Name: "taken", Scopes: read}, `a live token is called "taken"`},
		{auth.Request{Name: "", Scopes: read}, `name: got ""`},
		{auth.Request{Name: "a b", Scopes: read}, `name: got "a b"`},
		{auth.Request{Name: "tok-aaaaaaaaaa", Scopes: read}, "not with tok-"},
		{auth.Request{Name: strings.Repeat("a", 41), Scopes: read}, "1 to 40"},
		{auth.Request{Name: "a"}, "scope: got none"},
		{auth.Request{Name: "a", Scopes: []string{"sandbox:read", "root"}}, `scope: got "root"`},
		{auth.Request{Name: "a", Scopes: read, TTL: -1}, "negative"},
		{auth.Request{Name: "a", Scopes: read, Quota: sessions.Quota{Sandboxes: -1}}, "negative"},
	} {
		text, _, err := o.Create(o.ctx(), tt.req)
		var known *sessions.Error
		if !errors.As(err, &known) || !strings.Contains(known.Msg, tt.want) || text != "" {
			t.Errorf("%+v: %v; want %s", tt.req, err, tt.want)
		}
	}
	if _, err := o.Revoke(o.ctx(), "nobody"); err == nil || !strings.Contains(err.Error(), `no token with the name or id "nobody"`) {
		t.Errorf("Revoke: %v", err)
	}
}

// What was used when is known to the minute, and is not written at each call.
func TestLastUse(t *testing.T) {
	o := newOffice(t)
	text, tok := o.create("ci", 0)
	writes := &countingStore{Store: o.Store}
	o.Store = writes
	for range 10 {
		o.now = o.now.Add(7 * time.Second)
		o.wants(text, tok.Principal().Name, "")
	}
	list, err := o.List(o.ctx())
	if err != nil || len(list) != 1 || o.now.Sub(list[0].Used) >= time.Minute {
		t.Errorf("used %v, now %v; %v", list, o.now, err)
	}
	if writes.n != 2 {
		t.Errorf("%d writes in 70 s, want 2", writes.n)
	}
}

type countingStore struct {
	auth.Store
	n int
}

func (s *countingStore) TokenUsed(ctx context.Context, id string, at time.Time) error {
	s.n++
	return s.Store.TokenUsed(ctx, id, at)
}

// The secret is in no file and in no log.
func TestTheSecretIsKeptNowhere(t *testing.T) {
	o := newOffice(t)
	text, tok := o.create("ci", 0)
	o.wants(text, tok.Principal().Name, "")
	o.wants(text[:len(text)-1], "", "cut off")
	if _, err := o.Revoke(o.ctx(), "ci"); err != nil {
		t.Fatal(err)
	}
	secret := []byte(text.Reveal()[20:60])
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(o.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, secret) {
			t.Errorf("it is in agentlab.db%s", suffix)
		}
	}
	if bytes.Contains(o.log.Bytes(), secret) || !strings.Contains(o.log.String(), tok.ID) {
		t.Errorf("log:\n%s", o.log.String())
	}
	if s := fmt.Sprint(text, tok); strings.Contains(s, string(secret)) {
		t.Errorf("printed: %s", s)
	}
}

func TestBearerTellsTheKindsApart(t *testing.T) {
	o := newOffice(t)
	text, tok := o.create("ci", 0)
	b := auth.Bearer{Tokens: o.Tokens}
	if p, err := b.Authenticate(t.Context(), text.Reveal()); err != nil || p.Name != tok.Principal().Name {
		t.Errorf("%+v, %v", p, err)
	}
	for _, s := range []string{"", "x", "Bearer " + text.Reveal(), "a.b.c", auth.Prefix + strings.Repeat("a", 1<<20)} {
		if _, err := b.Authenticate(t.Context(), s); !errors.Is(err, auth.ErrUnauthenticated) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}
