package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Token is the record of a token: all but its secret.
type Token struct {
	ID     string // "tok-" and 10 letters and digits
	Name   string // of one live token at a time
	Hash   [32]byte
	Scopes []sessions.Scope
	Quota  sessions.Quota // zero values are the installation's

	Created time.Time
	Expires time.Time // zero is never
	Used    time.Time // to the minute; zero is never
	Revoked time.Time // zero is not
}

// Principal is who holds the token. Its name has the token's id in it: a name
// may be given again after a revocation, and whoever has it then must not find
// the sandboxes of another.
func (t Token) Principal() sessions.Principal {
	return sessions.Principal{Name: "token:" + t.Name + "/" + t.ID, Scopes: t.Scopes, Quota: t.Quota, Expires: t.Expires}
}

// State is "live", "expired" or "revoked".
func (t Token) State(now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return "expired"
	}
	return "live"
}

// Errors that a Store returns, wrapped.
var (
	// ErrNoToken: there is none of that id or name.
	ErrNoToken = errors.New("no such token")
	// ErrNameTaken: a live token has that name.
	ErrNameTaken = errors.New("name of a live token")
)

// Store keeps the records of tokens. The store package implements it.
type Store interface {
	// AddToken records a new token. by is who makes it.
	//
	// Errors: ErrNameTaken.
	AddToken(ctx context.Context, t Token, by string) error
	// Token returns one record. Errors: ErrNoToken.
	Token(ctx context.Context, id string) (Token, error)
	// Tokens returns all records, the oldest first.
	Tokens(ctx context.Context) ([]Token, error)
	// RevokeTokens revokes those that have this id or name and returns them; it
	// returns none if all are revoked already.
	//
	// Errors: ErrNoToken.
	RevokeTokens(ctx context.Context, ref string, at time.Time, by string) ([]Token, error)
	// TokenUsed records when a token was last used. One that is unknown is no error.
	TokenUsed(ctx context.Context, id string, at time.Time) error
}

// Tokens are those of this installation. It is the only one that changes their
// records while it is in use.
type Tokens struct {
	Store   Store
	Log     *slog.Logger
	Now     func() time.Time       // nil is time.Now
	Revoked func(principal string) // is told whose token no longer counts; may be nil

	mu      sync.Mutex
	known   map[string]Token // live when they were read; a revocation empties it
	changes int              // revocations so far
}

// usedEvery bounds how often the use of one token is written down.
const usedEvery = time.Minute

// Request asks for a token.
type Request struct {
	Name   string
	Scopes []string
	TTL    time.Duration // 0 is for ever
	Quota  sessions.Quota
}

// nameForm is what a token can be called. An id does not match it.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,39}$`)

// Create makes a token. Its text is returned this once and kept nowhere.
//
// Errors: a sessions.Error that says what to ask for instead.
func (t *Tokens) Create(ctx context.Context, req Request) (redact.String, Token, error) {
	who, _ := sessions.PrincipalFrom(ctx)
	scopes, err := parseScopes(req.Scopes)
	switch {
	case err != nil:
		return "", Token{}, err
	case !nameForm.MatchString(req.Name) || strings.HasPrefix(req.Name, idPrefix):
		return "", Token{}, sessions.Errorf(sessions.Invalid, "name: got %q, want 1 to 40 of a-z 0-9 . _ - that begin with a letter or digit and not with %s", clip(req.Name), idPrefix)
	case req.TTL < 0 || req.Quota.Sandboxes < 0 || req.Quota.MemoryMB < 0:
		return "", Token{}, sessions.Errorf(sessions.Invalid, "lifetime and quotas: got a negative number, want 0 (no expiry, the installation's quota) or more")
	}
	now := t.now()
	text, id := newSecret()
	tok := Token{ID: id, Name: req.Name, Hash: hash(text), Scopes: scopes, Quota: req.Quota, Created: now}
	if req.TTL > 0 {
		tok.Expires = now.Add(req.TTL)
	}
	err = t.Store.AddToken(ctx, tok, who.Name)
	if errors.Is(err, ErrNameTaken) {
		return "", Token{}, sessions.Errorf(sessions.Conflict, "name: a live token is called %q; revoke it first, or choose another name", req.Name)
	}
	if err != nil {
		return "", Token{}, err
	}
	t.Log.Info("token created", "token", tok.ID, "name", tok.Name, "scopes", req.Scopes, "by", who.Name)
	return text, tok, nil
}

// parseScopes reads the names of scopes. The order is that of width.
func parseScopes(names []string) ([]sessions.Scope, error) {
	var scopes []sessions.Scope
	for _, s := range sessions.Scopes() {
		if slices.Contains(names, string(s)) {
			scopes = append(scopes, s)
		}
	}
	for _, name := range names {
		if !slices.Contains(sessions.Scopes(), sessions.Scope(name)) {
			return nil, sessions.Errorf(sessions.Invalid, "scope: got %q, want of %q", clip(name), sessions.Scopes())
		}
	}
	if len(scopes) == 0 {
		return nil, sessions.Errorf(sessions.Invalid, "scope: got none, want at least one of %q", sessions.Scopes())
	}
	return scopes, nil
}

// List returns all tokens, the oldest first.
func (t *Tokens) List(ctx context.Context) ([]Token, error) { return t.Store.Tokens(ctx) }

// Revoke revokes the token of that id, or those of that name, and returns
// them; none if they are revoked already. From when it returns none of them is
// taken any more.
//
// Errors: a sessions.Error if there never was one.
func (t *Tokens) Revoke(ctx context.Context, ref string) ([]Token, error) {
	who, _ := sessions.PrincipalFrom(ctx)
	revoked, err := t.Store.RevokeTokens(ctx, ref, t.now(), who.Name)
	t.mu.Lock() // also after an error: the store may have done it all the same
	t.changes++
	clear(t.known)
	t.mu.Unlock()
	if errors.Is(err, ErrNoToken) {
		return nil, sessions.Errorf(sessions.NotFound, "there is no token with the name or id %q; agentlab token list shows them", clip(ref))
	}
	if err != nil {
		return nil, err
	}
	for _, tok := range revoked {
		t.Log.Info("token revoked", "token", tok.ID, "name", tok.Name, "by", who.Name)
		if t.Revoked != nil {
			t.Revoked(tok.Principal().Name)
		}
	}
	return revoked, nil
}

// Authenticate returns the principal that holds a token.
//
// Errors: ErrUnauthenticated; any other is of the store.
func (t *Tokens) Authenticate(ctx context.Context, text redact.String) (sessions.Principal, error) {
	id, err := parse(text)
	if err != nil {
		return sessions.Principal{}, err
	}
	tok, err := t.find(ctx, id)
	absent := errors.Is(err, ErrNoToken)
	if err != nil && !absent {
		return sessions.Principal{}, err
	}
	got := hash(text)
	same := subtle.ConstantTimeCompare(got[:], tok.Hash[:]) == 1 // with that of none, too, so that it takes as long
	if absent {
		return sessions.Principal{}, fmt.Errorf("%w: there is no %s", ErrUnauthenticated, id)
	}
	if !same {
		return sessions.Principal{}, fmt.Errorf("%w: wrong secret for %s", ErrUnauthenticated, id)
	}
	now := t.now()
	if state := tok.State(now); state != "live" {
		return sessions.Principal{}, fmt.Errorf("%w: %s (%s) is %s", ErrUnauthenticated, id, tok.Name, state)
	}
	t.used(ctx, id, now)
	return tok.Principal(), nil
}

// find returns the record of a token, from the store if it is not known yet.
func (t *Tokens) find(ctx context.Context, id string) (Token, error) {
	t.mu.Lock()
	tok, ok := t.known[id]
	before := t.changes
	t.mu.Unlock()
	if ok {
		return tok, nil
	}
	tok, err := t.Store.Token(ctx, id)
	if err != nil || tok.State(t.now()) != "live" {
		return tok, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes == before { // else it may have been revoked since it was read
		if t.known == nil {
			t.known = map[string]Token{}
		}
		t.known[id] = tok
	}
	return tok, nil
}

// used notes that a token is in use. It is worth no failed call.
func (t *Tokens) used(ctx context.Context, id string, now time.Time) {
	t.mu.Lock()
	tok, ok := t.known[id]
	due := ok && now.Sub(tok.Used) >= usedEvery
	if due {
		tok.Used = now
		t.known[id] = tok
	}
	t.mu.Unlock()
	if !due {
		return
	}
	if err := t.Store.TokenUsed(context.WithoutCancel(ctx), id, now); err != nil {
		t.Log.Warn("last use of a token not recorded", "token", id, "err", err)
	}
}

func (t *Tokens) now() time.Time {
	now := t.Now
	if now == nil {
		now = time.Now
	}
	return now().UTC().Round(0)
}

// clip bounds what is repeated of what others wrote.
func clip(s string) string { return s[:min(len(s), 64)] }
