package tools

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// TokenSource gives the tokens of the installation. It fails as a [Source] does.
type TokenSource func(ctx context.Context) (*auth.Tokens, error)

// Admin returns the operator's tools, which the command line calls. No agent is
// shown them.
func Admin(open Source, tokens TokenSource, log *slog.Logger) []Tool {
	s := &service{open: open, tokens: tokens, log: log}
	return []Tool{s.tokenCreate(), s.tokenList(), s.tokenRevoke(), s.eventList(), s.sandboxPrune(), s.serverStatus()}
}

// Token is a token as the operator sees it: all but its secret.
type Token struct {
	TokenID   string `json:"token_id"`
	Name      string `json:"name"`
	State     string `json:"state" doc:"live, expired or revoked"`
	Scopes    string `json:"scopes"`
	CreatedAt string `json:"created_at"`
	ExpiresAt string `json:"expires_at,omitempty"`
	UsedAt    string `json:"used_at,omitempty"`
	RevokedAt string `json:"revoked_at,omitempty"`
	Sandboxes int    `json:"quota_sandboxes,omitempty"`
	MemoryMB  int    `json:"quota_memory_mb,omitempty"`
}

func viewToken(t auth.Token, now time.Time) Token {
	return Token{
		TokenID: t.ID, Name: t.Name, State: t.State(now), Scopes: t.Principal().ScopeText(),
		CreatedAt: clock(t.Created), ExpiresAt: clockOrNone(t.Expires), UsedAt: clockOrNone(t.Used), RevokedAt: clockOrNone(t.Revoked),
		Sandboxes: t.Quota.Sandboxes, MemoryMB: t.Quota.MemoryMB,
	}
}

func clockOrNone(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return clock(t)
}

type tokenCreateIn struct {
	Name      string `arg:"name,required" bytes:"100"`
	Scopes    string `arg:"scopes,required" bytes:"200" doc:"With spaces between"`
	TTL       int    `arg:"lifetime_seconds" default:"0" min:"0" doc:"0 is for ever"`
	Sandboxes int    `arg:"quota_sandboxes" default:"0" min:"0" doc:"0 is the installation's"`
	MemoryMB  int    `arg:"quota_memory_mb" default:"0" min:"0" doc:"0 is the installation's"`
}

// TokenCreated is the result of token_create.
type TokenCreated struct {
	Secret    string `json:"token" doc:"It is not shown again"`
	TokenID   string `json:"token_id"`
	Name      string `json:"name"`
	ExpiresAt string `json:"expires_at,omitempty"`
}

func (s *service) tokenCreate() Tool {
	return define(s, Tool{
		Name: "token_create", Title: "Create token",
		Scope:       sessions.ScopeAdmin,
		Description: "Make a bearer token for a client over HTTP.",
		Output:      outputOf[TokenCreated](),
		Doing:       "making the token",
	}, func(ctx context.Context, _ *sessions.Manager, in tokenCreateIn) (Result, error) {
		tokens, err := s.tokens(ctx)
		if err != nil {
			return Result{}, err
		}
		secret, t, err := tokens.Create(ctx, auth.Request{
			Name: in.Name, Scopes: strings.Fields(in.Scopes), TTL: seconds(in.TTL),
			Quota: sessions.Quota{Sandboxes: in.Sandboxes, MemoryMB: in.MemoryMB},
		})
		if err != nil {
			return Result{}, err
		}
		out := TokenCreated{secret.Reveal(), t.ID, t.Name, clockOrNone(t.Expires)}
		return structured(out, out.Secret), nil
	})
}

// TokenList is the result of token_list.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

func (s *service) tokenList() Tool {
	return define(s, Tool{
		Name: "token_list", Title: "List tokens",
		Scope:       sessions.ScopeAdmin,
		Description: "All bearer tokens that were ever made, without their secrets.",
		Output:      outputOf[TokenList](),
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Doing:       "listing the tokens",
	}, func(ctx context.Context, _ *sessions.Manager, _ struct{}) (Result, error) {
		tokens, err := s.tokens(ctx)
		if err != nil {
			return Result{}, err
		}
		all, err := tokens.List(ctx)
		if err != nil {
			return Result{}, err
		}
		out := TokenList{Tokens: []Token{}}
		for _, t := range all {
			out.Tokens = append(out.Tokens, viewToken(t, time.Now()))
		}
		return structured(out, count(len(out.Tokens), "token", "tokens")), nil
	})
}

type tokenRevokeIn struct {
	Token string `arg:"token,required" bytes:"100" doc:"Its name or id"`
}

// TokenRevoked is the result of token_revoke.
type TokenRevoked struct {
	Revoked int `json:"revoked" doc:"How many were live or expired until now"`
}

func (s *service) tokenRevoke() Tool {
	return define(s, Tool{
		Name: "token_revoke", Title: "Revoke token",
		Scope:       sessions.ScopeAdmin,
		Description: "Revoke a bearer token. Calls that are running with it are cancelled.",
		Output:      outputOf[TokenRevoked](),
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Doing:       "revoking the token",
		Urgent:      true,
	}, func(ctx context.Context, _ *sessions.Manager, in tokenRevokeIn) (Result, error) {
		tokens, err := s.tokens(ctx)
		if err != nil {
			return Result{}, err
		}
		revoked, err := tokens.Revoke(ctx, in.Token)
		if err != nil {
			return Result{}, err
		}
		text := fmt.Sprintf("%s was revoked already", in.Token)
		if len(revoked) > 0 {
			text = fmt.Sprintf("%s is revoked", in.Token)
		}
		return structured(TokenRevoked{len(revoked)}, text), nil
	})
}
