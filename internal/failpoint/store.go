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

func (s store) Claim(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, fit sessions.Fit, ch sessions.Change) (kept sessions.Sandbox, existing bool, err error) {
	err = s.points.Around("store claim", func() (err error) {
		kept, existing, err = s.Store.Claim(ctx, sb, quota, fit, ch)
		return err
	})
	return kept, existing, err
}

func (s store) Trust(ctx context.Context, sb sessions.Sandbox, ch sessions.Change) (sessions.Sandbox, error) {
	return around(s.points, "store trust", func() (sessions.Sandbox, error) { return s.Store.Trust(ctx, sb, ch) })
}

func (s store) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	return around(s.points, "store move "+string(to), func() (sessions.Sandbox, error) { return s.Store.Move(ctx, id, to, ch) })
}

func (s store) Intend(ctx context.Context, id, handle string) error {
	return s.points.Around("store intend", func() error { return s.Store.Intend(ctx, id, handle) })
}

func (s store) SetEnd(ctx context.Context, id string, end time.Time, ch sessions.Change) (sessions.Sandbox, error) {
	return around(s.points, "store set end", func() (sessions.Sandbox, error) { return s.Store.SetEnd(ctx, id, end, ch) })
}

func (s store) Resize(ctx context.Context, id string, size sessions.Size, quota sessions.Quota, ch sessions.Change) (sessions.Sandbox, error) {
	return around(s.points, "store resize", func() (sessions.Sandbox, error) { return s.Store.Resize(ctx, id, size, quota, ch) })
}

func (s store) Log(ctx context.Context, e sessions.Event) error {
	return s.points.Around("store log "+strings.ReplaceAll(string(e.What), "_", " "), func() error { return s.Store.Log(ctx, e) })
}

func (s store) Prune(ctx context.Context, before time.Time, keepEvents int) (bool, error) {
	return around(s.points, "store prune", func() (bool, error) { return s.Store.Prune(ctx, before, keepEvents) })
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

func (s tokens) RevokeTokens(ctx context.Context, ref string, at time.Time, by string) ([]auth.Token, error) {
	return around(s.points, "store revoke tokens", func() ([]auth.Token, error) { return s.Store.RevokeTokens(ctx, ref, at, by) })
}

func (s tokens) TokenUsed(ctx context.Context, id string, at time.Time) error {
	return s.points.Around("store use token", func() error { return s.Store.TokenUsed(ctx, id, at) })
}
