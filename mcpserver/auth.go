package mcpserver

import (
	"context"
	"errors"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// ErrUnauthenticated is what an Authenticator answers of a token that is
// unknown, revoked, expired or not for us.
var ErrUnauthenticated = auth.ErrUnauthenticated

// Authenticator says whose bearer token it is.
type Authenticator interface {
	// Authenticate returns the principal that holds token. It is asked at each
	// request, so that a revocation acts on the next one.
	//
	// Errors: ErrUnauthenticated, wrapped; any other means that it could not be
	// found out now.
	Authenticate(ctx context.Context, token string) (sessions.Principal, error)
}

// credential says whose request it was as it is now: tokens end, and scopes
// change, while something lasts that a request has begun. Errors are those of
// Authenticate.
type credential func(ctx context.Context) (sessions.Principal, error)

type credentialKey struct{}

// withCredential returns the context of a request with that credential.
func withCredential(ctx context.Context, c credential) context.Context {
	return context.WithValue(ctx, credentialKey{}, c)
}

// credentialFrom returns the credential of a request, nil if it needed none.
func credentialFrom(ctx context.Context) credential {
	c, _ := ctx.Value(credentialKey{}).(credential)
	return c
}

// show takes the credential of a request of the client's for what lasts.
func (c *conn) show(ctx context.Context) {
	if shown := credentialFrom(ctx); shown != nil {
		c.shown.Store(&shown)
	}
}

// asNow returns ctx with who its principal is now, by what the client has shown
// last.
//
// Errors: those of Authenticate.
func (c *conn) asNow(ctx context.Context) (context.Context, error) {
	check := c.shown.Load()
	if check == nil {
		return ctx, nil
	}
	who, err := (*check)(ctx)
	return sessions.WithPrincipal(ctx, who), err
}

// known says whether what lasts may go on. That a token can't be checked at the
// moment is no reason to end it.
func (c *conn) known(ctx context.Context) bool {
	_, err := c.asNow(ctx)
	return !errors.Is(err, ErrUnauthenticated)
}
