package sessions

import (
	"context"
	"errors"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// dialLimit is how long a guest that was READY may take to answer.
const dialLimit = 30 * time.Second

// Use gives fn the channel to a sandbox of the caller's, waiting up to wait
// until it is READY. The ctx of fn ends with the sandbox: what fn returns then is
// replaced by an error that says how it ended. Errors of the channel become an
// [Error]; all others that fn returns pass unchanged.
func (m *Manager) Use(ctx context.Context, id string, wait time.Duration, fn func(ctx context.Context, sb Sandbox, conn guest.Conn) error) error {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return err
	}
	l := m.lines.pin(id)
	defer m.lines.unpin(id, l)
	sb, err := m.usable(ctx, id, wait)
	if err != nil {
		return err
	}
	defer func() { m.lines.use(id, l, m.now()) }()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return Errorf(Exhausted, "sandbox %s has %d calls in progress, the most there may be at a time; try again in 1 s, when one may have ended, and run long commands with wait_seconds=0", id, cap(l.slots))
	}
	return m.use(ctx, l, sb, who, fn)
}

func (m *Manager) use(ctx context.Context, l *line, sb Sandbox, who Principal, fn func(context.Context, Sandbox, guest.Conn) error) error {
	if sb.State == Ready {
		now, err := m.move(ctx, sb.ID, Running, Change{By: who.Name})
		switch {
		case err == nil:
			sb = now
		case !errors.Is(err, ErrConflict): // else another did it, or the line is about to be cut
			return internal(sb.ID, err)
		}
	}
	conn, err := m.lines.conn(ctx, l, dialLimit, m.dial(sb))
	if err != nil && l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if err != nil {
		return present(sb.ID, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })()
	if err = fn(ctx, sb, span.Conn(ctx, conn)); err != nil && l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	return present(sb.ID, err)
}

// usable returns a sandbox of the caller's that commands can be run in.
func (m *Manager) usable(ctx context.Context, id string, wait time.Duration) (Sandbox, error) {
	sb, err := m.Get(ctx, id, wait)
	switch {
	case err != nil:
		return Sandbox{}, err
	case sb.State.making():
		return Sandbox{}, Errorf(Unavailable, "sandbox %s is still being made (%s); try again, or wait for it with list_sandboxes", id, sb.State)
	case !sb.State.usable():
		return Sandbox{}, atRest(sb)
	}
	return sb, nil
}

// outcome is what is told of an error to who counts: its kind, never its text, which
// may tell what a command or a file contained.
func outcome(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Kind.String()
	case isCanceled(err):
		return "canceled"
	}
	return "failed"
}
