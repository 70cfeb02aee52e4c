package auth_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestTokensOfAnIssuer(t *testing.T) {
	p := newIDP(t)
	rs := newSigner(t, "rs", jwt.SigningMethodRS256)
	ps := newSigner(t, "ps", jwt.SigningMethodPS384)
	es := newSigner(t, "es", jwt.SigningMethodES256)
	ed := newSigner(t, "ed", jwt.SigningMethodEdDSA)
	p.publish(rs, ps, es, ed)
	const read, write = sessions.ScopeRead, sessions.ScopeWrite
	names := map[string]sessions.Scope{"labs.use": write}
	for _, tt := range []struct {
		name   string
		by     signer
		change map[string]any
		table  map[string]sessions.Scope
		want   []sessions.Scope
	}{
		{"rsa", rs, nil, nil, []sessions.Scope{read}},
		{"rsa-pss", ps, nil, nil, []sessions.Scope{read}},
		{"ecdsa", es, nil, nil, []sessions.Scope{read}},
		{"ed25519", ed, nil, nil, []sessions.Scope{read}},
		{"one-audience", rs, map[string]any{"aud": "lab"}, nil, []sessions.Scope{read}},
		{"scope-list", rs, map[string]any{"scope": []string{"sandbox:write"}}, nil, []sessions.Scope{write}},
		{"scp-list", rs, map[string]any{"scope": nil, "scp": []string{"sandbox:write"}}, nil, []sessions.Scope{write}},
		{"scp-text", rs, map[string]any{"scope": nil, "scp": "sandbox:read sandbox:write"}, nil, []sessions.Scope{read, write}},
		{"no-scope", rs, map[string]any{"scope": nil}, nil, nil},
		{"by-the-table", rs, map[string]any{"scope": "labs.use sandbox:read admin"}, names, []sessions.Scope{write}},
		{"clock-behind", rs, map[string]any{"nbf": p.now.Add(30 * time.Second).Unix(), "exp": p.now.Add(time.Hour).Unix()}, nil, []sessions.Scope{read}},
		{"clock-ahead", rs, map[string]any{"exp": p.now.Add(-30 * time.Second).Unix()}, nil, []sessions.Scope{read}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.issuer.Scopes = tt.table
			got, err := p.authenticate(p.token(tt.by, tt.change, nil))
			exp, ok := tt.change["exp"].(int64)
			if !ok {
				exp = p.now.Add(time.Hour).Unix()
			}
			want := sessions.Principal{Name: "oidc:" + p.URL + "#alice", Scopes: tt.want, Expires: time.Unix(exp, 0).Add(time.Minute)}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("principal (-want +got):\n%s%v", diff, err)
			}
		})
	}
	if p.times() != 1 {
		t.Errorf("the keys were asked for %d times", p.times())
	}
}

// hs256 signs with a public key as if it were a shared secret.
func hs256(p *idp, kid string, secret []byte) string {
	tok := jwt.NewWithClaims(jwt.SigningMethodHS256, p.claims(nil))
	tok.Header["kid"] = kid
	text, err := tok.SignedString(secret)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func TestTokensThatDoNotCount(t *testing.T) {
	p := newIDP(t)
	rs, es := newSigner(t, "rs", jwt.SigningMethodRS256), newSigner(t, "es", jwt.SigningMethodES256)
	p.publish(rs, es)
	shared := []byte("a secret of the issuer and somebody else")
	p.set(func() {
		p.keys = append(p.keys, map[string]any{"kty": "oct", "kid": "shared", "k": base64.RawURLEncoding.EncodeToString(shared)})
	})
	foreign := newSigner(t, "rs", jwt.SigningMethodRS256)
	public := rs.key.Public().(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	good := p.token(rs, nil, nil)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	swapped := rs
	swapped.id = "es"
	for name, token := range map[string]string{
		"other-issuer":      p.token(rs, map[string]any{"iss": "https://evil.example"}, nil),
		"issuer-with-slash": p.token(rs, map[string]any{"iss": p.URL + "/"}, nil),
		"no-issuer":         p.token(rs, map[string]any{"iss": nil}, nil),
		"other-audience":    p.token(rs, map[string]any{"aud": "other"}, nil),
		"no-audience":       p.token(rs, map[string]any{"aud": nil}, nil),
		"expired":           p.token(rs, map[string]any{"exp": p.now.Add(-61 * time.Second).Unix()}, nil),
		"never-expires":     p.token(rs, map[string]any{"exp": nil}, nil),
		"not-yet":           p.token(rs, map[string]any{"nbf": p.now.Add(2 * time.Minute).Unix()}, nil),
		"no-subject":        p.token(rs, map[string]any{"sub": nil}, nil),
		"subject-of-lines":  p.token(rs, map[string]any{"sub": "a\nb"}, nil),
		"long-subject":      p.token(rs, map[string]any{"sub": strings.Repeat("a", 256)}, nil),
		"critical-header":   p.token(rs, nil, map[string]any{"crit": []string{"x"}, "x": 1}),
		"another's-key":     p.token(foreign, nil, nil),
		"unknown-key":       p.token(newSigner(t, "new", jwt.SigningMethodES256), nil, nil),
		"key-of-other-kind": p.token(swapped, nil, nil),
		"key-in-the-header": p.token(foreign, nil, map[string]any{"jwk": map[string]any{"kty": "RSA"}, "jku": "https://evil.example/keys"}),
		"hmac-with-pem":     hs256(p, "rs", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"hmac-with-der":     hs256(p, "rs", der),
		"hmac-with-modulus": hs256(p, "rs", public.N.Bytes()),
		"hmac-with-shared":  hs256(p, "shared", shared),
		"none":              b64([]byte(`{"alg":"none","kid":"rs"}`)) + "." + parts[1] + ".",
		"none-with-case":    b64([]byte(`{"alg":"nOnE","kid":"rs"}`)) + "." + parts[1] + ".",
		"no-signature":      parts[0] + "." + parts[1] + ".",
		"other-claims":      parts[0] + "." + b64([]byte(`{"sub":"root"}`)) + "." + parts[2],
		"cut-off":           good[:len(good)-10],
		"four-parts":        good + ".x",
		"not-base64":        "!." + parts[1] + "." + parts[2],
		"padded":            parts[0] + "=." + parts[1] + "." + parts[2],
		"text":              "hello",
		"empty":             "",
	} {
		t.Run(name, func(t *testing.T) {
			if who, err := p.authenticate(token); !errors.Is(err, auth.ErrUnauthenticated) || who.Name != "" {
				t.Errorf("%+v, %v", who, err)
			} else if strings.HasPrefix(name, "hmac") || strings.HasPrefix(name, "none") {
				if !strings.Contains(err.Error(), "signing method") { // not left to the kind of the key
					t.Errorf("refused for another reason: %v", err)
				}
			}
		})
	}
	b := auth.Bearer{Issuer: p.issuer}
	if who, err := b.Authenticate(t.Context(), good); err != nil || who.Name == "" {
		t.Errorf("the good one: %+v, %v", who, err)
	}
	huge := p.token(rs, map[string]any{"x": strings.Repeat("a", 20<<10)}, nil)
	if _, err := b.Authenticate(t.Context(), huge); !errors.Is(err, auth.ErrUnauthenticated) || !strings.Contains(err.Error(), "more than 16384") {
		t.Errorf("a huge one: %v", err)
	}
}

// A new key counts as soon as a token names it, an old one no longer than the
// issuer names it.
func TestKeysRotate(t *testing.T) {
	p := newIDP(t)
	old, next := newSigner(t, "old", jwt.SigningMethodES256), newSigner(t, "next", jwt.SigningMethodES256)
	p.publish(old)
	wants := func(s signer, ok bool) {
		t.Helper()
		if _, err := p.authenticate(p.token(s, nil, nil)); ok != (err == nil) || !ok && !errors.Is(err, auth.ErrUnauthenticated) {
			t.Errorf("%s: %v, want that it counts: %v", s.id, err, ok)
		}
	}
	wants(old, true)
	p.publish(old, next)
	p.pass(10 * time.Second)
	wants(next, true)
	wants(old, true)
	p.publish(next)
	p.pass(59 * time.Minute)
	wants(old, true) // it was withdrawn just now
	p.pass(2 * time.Minute)
	for ctx := t.Context(); ; { // old keys are asked about while they go on counting
		_, err := p.authenticate(p.token(old, nil, nil))
		if errors.Is(err, auth.ErrUnauthenticated) {
			break
		}
		if err != nil || ctx.Err() != nil {
			t.Fatalf("a withdrawn key: %v", err)
		}
	}
	wants(next, true)
}

// Whoever sends tokens with keys that are unknown makes us ask once.
func TestUnknownKeysAreNoStorm(t *testing.T) {
	p := newIDP(t)
	known := newSigner(t, "known", jwt.SigningMethodES256)
	p.publish(known)
	flood := func() {
		var all sync.WaitGroup
		for i := range 100 {
			s := known
			s.id = fmt.Sprint("unknown-", i)
			token := p.token(s, nil, nil)
			all.Go(func() {
				if _, err := p.authenticate(token); !errors.Is(err, auth.ErrUnauthenticated) {
					t.Errorf("%s: %v", s.id, err)
				}
			})
		}
		all.Wait()
	}
	for round := 1; round <= 2; round++ {
		flood()
		if p.times() != round {
			t.Errorf("asked %d times in round %d", p.times(), round)
		}
		p.pass(10 * time.Second)
	}
	if _, err := p.authenticate(p.token(known, nil, nil)); err != nil {
		t.Errorf("the known key: %v", err)
	}
}

// A client that goes away does not take the keys from those who wait too.
func TestAskingOutlivesTheCaller(t *testing.T) {
	p := newIDP(t)
	s := newSigner(t, "s", jwt.SigningMethodES256)
	p.publish(s)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	token := p.token(s, nil, nil)
	if _, err := p.issuer.Authenticate(gone, redact.String(token)); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("of a client that is gone: %v", err)
	}
	if _, err := p.authenticate(token); err != nil {
		t.Errorf("of the next: %v", err)
	}
}

// unavailable says that it could not be found out, which is not a refusal.
func unavailable(err error) bool { return err != nil && !errors.Is(err, auth.ErrUnauthenticated) }

func TestIssuerIsDown(t *testing.T) {
	p := newIDP(t)
	known, next := newSigner(t, "known", jwt.SigningMethodES256), newSigner(t, "next", jwt.SigningMethodES256)
	p.publish(known)
	p.set(func() { p.down = true })
	for range 2 { // the second is not asked about again so soon
		if _, err := p.authenticate(p.token(known, nil, nil)); !unavailable(err) || !strings.Contains(err.Error(), "503") {
			t.Errorf("down at the start: %v", err)
		}
	}
	p.set(func() { p.down = false })
	p.pass(10 * time.Second)
	if _, err := p.authenticate(p.token(known, nil, nil)); err != nil {
		t.Fatalf("up: %v", err)
	}
	p.publish(known, next)
	p.set(func() { p.down = true })
	for range 3 { // also when what we know is old
		p.pass(time.Hour)
		if _, err := p.authenticate(p.token(known, nil, nil)); err != nil {
			t.Errorf("down, of a known key: %v", err)
		}
	}
	p.pass(10 * time.Second)
	if _, err := p.authenticate(p.token(next, nil, nil)); !unavailable(err) {
		t.Errorf("down, of an unknown key: %v", err)
	}
}

// What an issuer says of itself is believed only as far as it must be.
func TestWhatIssuersSay(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) }))
	defer plain.Close()
	for _, tt := range []struct {
		name  string
		about func(p *idp)
		want  string // in the error; empty is that its tokens count
	}{
		{"oauth-metadata", func(p *idp) { p.wellKey = "/.well-known/oauth-authorization-server" }, ""},
		{"another-issuer", func(p *idp) { p.about["issuer"] = "https://evil.example" }, `it says that it is "https://evil.example"; set oauth_issuer`},
		{"plain-keys", func(p *idp) { p.about["jwks_uri"] = plain.URL }, "not https"},
		{"no-keys", func(p *idp) { delete(p.about, "jwks_uri") }, "not https"},
		{"not-there", func(p *idp) { p.wellKey = "/nowhere" }, "404"},
		{"empty-set", func(p *idp) { p.keys = nil }, "no key that can be used"},
		{"endless", func(p *idp) { p.about["x"] = strings.Repeat("a", 2<<20) }, "unexpected EOF"},
		{"keys-for-others", func(p *idp) {
			p.keys = append(p.keys, map[string]any{"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "s"}, map[string]any{"kty": "new"}, map[string]any{"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"})
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newIDP(t)
			s := newSigner(t, "s", jwt.SigningMethodES256)
			p.publish(s)
			p.set(func() { tt.about(p) })
			_, err := p.authenticate(p.token(s, nil, nil))
			if tt.want == "" && err != nil || tt.want != "" && (!unavailable(err) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("redirect-to-plain", func(t *testing.T) {
		p := newIDP(t)
		s := newSigner(t, "s", jwt.SigningMethodES256)
		p.publish(s)
		away := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
		defer away.Close()
		p.issuer.Client = away.Client()
		p.issuer.URL = away.URL
		if _, err := p.authenticate(p.token(s, nil, nil)); !unavailable(err) || !strings.Contains(err.Error(), "by http") {
			t.Errorf("error %v", err)
		}
	})
}

// FuzzJWT: whatever the three parts are, nobody gets in and nothing breaks.
func FuzzJWT(f *testing.F) {
	f.Add([]byte(`{"alg":"RS256","kid":"rs"}`), []byte(`{"sub":"a"}`), []byte("x"))
	f.Add([]byte(`{"alg":"none"}`), []byte(`{"scope":["a",1]}`), []byte(nil))
	f.Add([]byte(`{"alg":["ES256"],"kid":5,"crit":null}`), []byte(`{"aud":{},"exp":"1e999"}`), []byte{0})
	f.Add([]byte(`{"alg":"EdDSA","kid":""}`), []byte(`null`), make([]byte, 64))
	p := newIDP(f)
	p.publish(newSigner(f, "es", jwt.SigningMethodES256), newSigner(f, "ed", jwt.SigningMethodEdDSA))
	f.Fuzz(func(t *testing.T, header, claims, signature []byte) {
		var parts []string
		for _, part := range [][]byte{header, claims, signature} {
			parts = append(parts, base64.RawURLEncoding.EncodeToString(part))
		}
		if who, err := p.issuer.Authenticate(t.Context(), redact.String(strings.Join(parts, "."))); !errors.Is(err, auth.ErrUnauthenticated) || who.Name != "" {
			t.Fatalf("%+v, %v", who, err)
		}
	})
}
