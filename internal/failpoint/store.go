package failpoint

import (
	"context"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Store returns s with points around each transaction that changes something.
func (p *Points) Store(s sessions.Store) sessions.Store {
	if p == nil {
		return s
	}
	return store{s, p}
}

type store struct {
	sessions.Store
	points *Points
}

func (s store) Add(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, ch sessions.Change) (kept sessions.Sandbox, existing bool, err error) {
	err = s.points.Around("store add", func() (err error) {
		kept, existing, err = s.Store.Add(ctx, sb, quota, ch)
		return err
	})
	return kept, existing, err
}

func (s store) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sb sessions.Sandbox, err error) {
	err = s.points.Around("store move "+string(to), func() (err error) {
		sb, err = s.Store.Move(ctx, id, to, ch)
		return err
	})
	return sb, err
}

func (s store) Intend(ctx context.Context, id, handle string) error {
	return s.points.Around("store intend", func() error { return s.Store.Intend(ctx, id, handle) })
}

func (s store) SetEnd(ctx context.Context, id string, end time.Time, ch sessions.Change) (sb sessions.Sandbox, err error) {
	err = s.points.Around("store set end", func() (err error) {
		sb, err = s.Store.SetEnd(ctx, id, end, ch)
		return err
	})
	return sb, err
}

func (s store) Log(ctx context.Context, e sessions.Event) error {
	return s.points.Around("store log "+strings.ReplaceAll(e.What, "_", " "), func() error { return s.Store.Log(ctx, e) })
}

func (s store) Prune(ctx context.Context, before time.Time, keepEvents int) (more bool, err error) {
	err = s.points.Around("store prune", func() (err error) {
		more, err = s.Store.Prune(ctx, before, keepEvents)
		return err
	})
	return more, err
}

// Tokens is Store for those of tokens.
func (p *Points) Tokens(s auth.Store) auth.Store {
	if p == nil {
		return s
	}
	return tokens{s, p}
}

type tokens struct {
	auth.Store
	points *Points
}

func (s tokens) AddToken(ctx context.Context, t auth.Token, by string) error {
	return s.points.Around("store add token", func() error { return s.Store.AddToken(ctx, t, by) })
}

func (s tokens) RevokeTokens(ctx context.Context, ref string, at time.Time, by string) (revoked []auth.Token, err error) {
	err = s.points.Around("store revoke tokens", func() (err error) {
		revoked, err = s.Store.RevokeTokens(ctx, ref, at, by)
		return err
	})
	return revoked, err
}

func (s tokens) TokenUsed(ctx context.Context, id string, at time.Time) error {
	return s.points.Around("store use token", func() error { return s.Store.TokenUsed(ctx, id, at) })
}
