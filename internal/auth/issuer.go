package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Issuer is an identity provider whose access tokens count here: JSON Web
// Tokens (RFC 7519, RFC 9068) that it has signed for our audience. It need not
// answer when we start. While it does not, the keys that it last told of count.
type Issuer struct {
	URL      string // as it stands in the claim iss
	Audience string // of which the claim aud must be, or have, one
	// Scopes says which of the issuer's scopes is which of ours; nil is that
	// they have the same names. Others are ignored.
	Scopes map[string]sessions.Scope
	Client *http.Client // nil trusts what the system trusts
	Log    *slog.Logger
	Now    func() time.Time // nil is time.Now

	mu    sync.Mutex
	keys  *keySet
	tried time.Time     // when they were last asked for
	asked chan struct{} // closed when the question that is open is answered; nil is none
	err   error         // of the last answer
}

const (
	// leeway is how much the issuer's clock may differ from ours.
	leeway = time.Minute
	// maxSubject is the longest subject, in bytes (OpenID Connect Core 1.0, section 2).
	maxSubject = 255
)

// methods are the signatures that count. All are made with a private key, so
// that nobody can take a public one for a shared secret (RFC 8725, section 3.1).
func methods() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// claims are what we read of a token.
type claims struct {
	jwt.RegisteredClaims

	Scope words `json:"scope"` // RFC 9068, section 2.2.3
	Scp   words `json:"scp"`   // what others call it
}

// words are a text with spaces between, or a list of texts.
type words []string

// UnmarshalJSON reads either.
func (w *words) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*w = strings.Fields(text)
		return nil
	}
	return json.Unmarshal(data, (*[]string)(w))
}

// Authenticate returns the principal that a token was issued to. Its name has
// the issuer in it: a subject is unique only there.
//
// Errors: ErrUnauthenticated; any other means that the issuer does not answer
// and the key is not known.
func (i *Issuer) Authenticate(ctx context.Context, text redact.String) (sessions.Principal, error) {
	var unknown error // the issuer could not be asked for the key
	key := func(t *jwt.Token) (any, error) {
		if t.Header["crit"] != nil { // RFC 7515, section 4.1.11: refuse what we don't know
			return nil, errors.New("header crit is not supported")
		}
		kid, _ := t.Header["kid"].(string)
		keys, err := i.keysWith(ctx, kid)
		if err != nil {
			unknown = err
			return nil, err
		}
		return keys.find.KeyfuncCtx(ctx)(t)
	}
	var c claims
	_, err := jwt.ParseWithClaims(text.Reveal(), &c, key,
		jwt.WithValidMethods(methods()), jwt.WithStrictDecoding(),
		jwt.WithIssuer(i.URL), jwt.WithAudience(i.Audience), jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway), jwt.WithTimeFunc(i.now))
	switch {
	case unknown != nil:
		return sessions.Principal{}, unknown
	case err != nil:
		return sessions.Principal{}, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	case !validSubject(c.Subject):
		return sessions.Principal{}, fmt.Errorf("%w: claim sub is empty, longer than %d bytes or not printable", ErrUnauthenticated, maxSubject)
	}
	return sessions.Principal{
		Name: "oidc:" + i.URL + "#" + c.Subject, Scopes: i.scopes(append(c.Scope, c.Scp...)), Expires: c.ExpiresAt.Add(leeway),
	}, nil
}

// validSubject keeps out of names and logs what is not text.
func validSubject(s string) bool {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	return s != "" && len(s) <= maxSubject && utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0
}

// scopes returns ours for the issuer's.
func (i *Issuer) scopes(theirs []string) []sessions.Scope {
	var ours []sessions.Scope
	for _, name := range theirs {
		scope := i.Scopes[name]
		if i.Scopes == nil {
			scope = sessions.Scope(name)
		}
		if slices.Contains(sessions.Scopes(), scope) {
			ours = append(ours, scope)
		}
	}
	return ours
}

func (i *Issuer) now() time.Time {
	if i.Now == nil {
		return time.Now()
	}
	return i.Now()
}
