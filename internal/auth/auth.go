// Package auth finds out who holds a bearer token. There are two kinds: tokens
// of this installation, which its operator makes and revokes, and JSON Web
// Tokens of an identity provider that the operator trusts.
//
// It says who asks and which scopes they have. What a scope is needed for is
// mcpserver's to say, and whose a sandbox is, sessions'.
package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// ErrUnauthenticated means that the bearer token is unknown, damaged, revoked,
// expired or not for us. Which of them is for the log, not for whoever holds it.
var ErrUnauthenticated = errors.New("token is not valid")

// maxBearer is the longest bearer token that is looked at, in bytes. Those of
// identity providers have some thousands.
const maxBearer = 16 << 10

// Bearer tells the kinds of tokens apart.
type Bearer struct {
	Tokens *Tokens
	Issuer *Issuer // nil is none
}

// Authenticate returns the principal that holds a token.
//
// Errors: ErrUnauthenticated, wrapped; any other means that it could not be
// found out now.
func (b Bearer) Authenticate(ctx context.Context, token string) (sessions.Principal, error) {
	switch {
	case len(token) > maxBearer:
		return sessions.Principal{}, fmt.Errorf("%w: it has %d bytes, more than %d", ErrUnauthenticated, len(token), maxBearer)
	case strings.HasPrefix(token, Prefix):
		return b.Tokens.Authenticate(ctx, redact.String(token))
	case b.Issuer != nil:
		return b.Issuer.Authenticate(ctx, redact.String(token))
	}
	return sessions.Principal{}, fmt.Errorf("%w: it does not begin with %s, and no oauth_issuer is set", ErrUnauthenticated, Prefix)
}
