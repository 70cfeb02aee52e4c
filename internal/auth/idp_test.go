package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// idp is an identity provider over real TLS, and an Issuer that trusts it, with
// a clock to turn.
type idp struct {
	*httptest.Server
	t      testing.TB
	issuer *auth.Issuer

	mu      sync.Mutex
	now     time.Time
	down    bool
	keys    []any // of the set: JWKs
	asked   int   // for the set
	about   map[string]any
	wellKey string // path of what it says of itself
}

func newIDP(t testing.TB) *idp {
	p := &idp{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), wellKey: "/.well-known/openid-configuration"}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	p.about = map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys"}
	p.issuer = &auth.Issuer{URL: p.URL, Audience: "lab", Client: p.Client(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.now
	}}
	return p
}

func (p *idp) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case r.URL.Path == p.wellKey:
		_ = json.NewEncoder(w).Encode(p.about)
	case r.URL.Path == "/keys":
		p.asked++
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": p.keys})
	default:
		http.NotFound(w, r)
	}
}

// set changes the provider.
func (p *idp) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *idp) pass(d time.Duration) { p.set(func() { p.now = p.now.Add(d) }) }

func (p *idp) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// signer is a key of the provider.
type signer struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
}

func newSigner(t testing.TB, id string, method jwt.SigningMethod) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch method.(type) {
	case *jwt.SigningMethodECDSA:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case *jwt.SigningMethodEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{id, method, key}
}

// publish makes the provider's set one of these keys.
func (p *idp) publish(signers ...signer) {
	p.t.Helper()
	var keys []any
	for _, s := range signers {
		jwk, err := jwkset.NewJWKFromKey(s.key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: s.id, USE: jwkset.UseSig}})
		if err != nil {
			p.t.Fatal(err)
		}
		keys = append(keys, jwk.Marshal())
	}
	p.set(func() { p.keys = keys })
}

// claims are those of a good token; change may spoil them.
func (p *idp) claims(change map[string]any) jwt.MapClaims {
	now := p.issuer.Now()
	c := jwt.MapClaims{
		"iss": p.URL, "aud": []string{"other", "lab"}, "sub": "alice", "scope": "openid sandbox:read",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// token returns a token that s has signed. header may be nil.
func (p *idp) token(s signer, change, header map[string]any) string {
	p.t.Helper()
	t := jwt.NewWithClaims(s.method, p.claims(change))
	t.Header["kid"] = s.id
	maps.Copy(t.Header, header)
	text, err := t.SignedString(s.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func (p *idp) authenticate(token string) (sessions.Principal, error) {
	return p.issuer.Authenticate(p.t.Context(), redact.String(token))
}
