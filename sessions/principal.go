package sessions

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Scope is a kind of thing that a principal may do.
type Scope string

// The scopes. ScopeWrite includes ScopeRead, and ScopeAdmin both.
const (
	ScopeRead  Scope = "sandbox:read"  // look at what is there
	ScopeWrite Scope = "sandbox:write" // make, use, change and destroy sandboxes
	ScopeAdmin Scope = "admin"         // what is the operator's, not an agent's
)

// Scopes returns all scopes, the narrowest first.
func Scopes() []Scope { return []Scope{ScopeRead, ScopeWrite, ScopeAdmin} }

// Principal is who asks.
type Principal struct {
	Name   string  // "local:1000", "token:ci/tok-a2b3c4d5e6"
	Scopes []Scope // what it may do; none is nothing
	Quota  Quota   // its own limits; zero values are the installation's

	// Expires is when the token that it asks with is over, and with it what was
	// made for its holder to pass on; zero is never.
	Expires time.Time
}

// May says whether the principal has a scope, by itself or in a wider one.
func (p Principal) May(s Scope) bool {
	switch s {
	case ScopeRead:
		return slices.Contains(p.Scopes, ScopeRead) || p.May(ScopeWrite)
	case ScopeWrite:
		return slices.Contains(p.Scopes, ScopeWrite) || p.May(ScopeAdmin)
	default:
		return s != "" && slices.Contains(p.Scopes, s)
	}
}

// ScopeText names the scopes that the principal was given, for people.
func (p Principal) ScopeText() string {
	names := make([]string, len(p.Scopes))
	for i, s := range p.Scopes {
		names[i] = string(s)
	}
	return strings.Join(names, " ")
}

type principalKey struct{}

// WithPrincipal returns a context that says who asks.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns who asks, and false if the context does not say, or names
// one that is not anybody: the owner of what is in a pool.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok && p.Name != "" && !strings.HasPrefix(p.Name, poolPrefix)
}
