// Package auth finds out who holds a bearer token: one of this installation,
// which its operator makes and revokes.
//
// It says who asks and which scopes they have. What a scope is needed for is
// mcpserver's to say, and whose a sandbox is, sessions'.
package auth

import "errors"

// ErrUnauthenticated: the bearer token is unknown, damaged, revoked, expired or
// not for us. Which of them is for the log, not for whoever holds it.
var ErrUnauthenticated = errors.New("token is not valid")
