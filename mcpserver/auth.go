package mcpserver

import (
	"context"

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
