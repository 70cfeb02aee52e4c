package mcpserver

import (
	"context"
	"errors"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// ErrUnauthenticated: the bearer token is unknown, revoked, expired or not for
// us. Which of them is for the log, not for the caller.
var ErrUnauthenticated = errors.New("token is not valid")

// Authenticator says whose bearer token it is.
type Authenticator interface {
	// Authenticate returns the principal that holds token. It is asked at each
	// request, so that a revocation acts on the next one.
	//
	// Errors: ErrUnauthenticated, wrapped; any other means that it could not be
	// found out now.
	Authenticate(ctx context.Context, token string) (sessions.Principal, error)
}
