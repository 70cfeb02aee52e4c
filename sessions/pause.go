package sessions

import (
	"context"
	"fmt"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

const reasonPaused = "paused by its owner"

// Pause holds the machine of a sandbox still, with all that runs in it. Its end
// comes as if it ran, and it counts against the quota. That is recorded first: one
// that is SUSPENDED may run if a crash came in between, and Resume mends that.
//
// Errors: Conflict if it can't be used now, or its backend can't do it.
func (m *Manager) Pause(ctx context.Context, id string) (Sandbox, error) {
	m.init()
	sb, s, unlock, err := m.toHold(ctx, id)
	if err != nil {
		return Sandbox{}, err
	}
	defer unlock()
	switch {
	case sb.State == Suspended: // and may run
	case !sb.State.usable():
		return Sandbox{}, Errorf(Conflict, "sandbox %s is %s, and only one that is READY or RUNNING can be paused", id, sb.State)
	default:
		if sb, err = m.move(ctx, id, Suspended, Change{By: sb.Owner, Owner: sb.Owner, Reason: reasonPaused}); err != nil {
			return Sandbox{}, internal(id, err)
		}
		m.lines.end(id, atRest(sb))
	}
	limited, cancel := context.WithTimeout(span.Join(m.ctx, ctx), dialLimit)
	defer cancel()
	if err := s.Pause(limited, sb.Ref()); err != nil {
		return Sandbox{}, &Error{Unavailable, fmt.Sprintf("sandbox %s is SUSPENDED, but its machine may still run: %s. Pause it again, or resume it", id, obstacleOf(id, err)), err}
	}
	return sb, nil
}

// Resume lets the machine of a sandbox go on that is SUSPENDED, and waits until it
// answers. One that can be used already may have been paused by somebody else, and
// goes on, too.
//
// Errors: Conflict if it is neither, or its backend can't do it.
func (m *Manager) Resume(ctx context.Context, id string) (Sandbox, error) {
	m.init()
	sb, s, unlock, err := m.toHold(ctx, id)
	if err != nil {
		return Sandbox{}, err
	}
	defer unlock()
	if sb.State != Suspended && !sb.State.usable() {
		return Sandbox{}, Errorf(Conflict, "sandbox %s is %s, and only one that is SUSPENDED can be resumed", id, sb.State)
	}
	limited, cancel := context.WithTimeout(span.Join(m.ctx, ctx), dialLimit)
	defer cancel()
	if err = s.Resume(limited, sb.Ref()); err == nil && sb.State == Suspended {
		err = m.isBack(limited, sb, "")
	}
	if err != nil {
		if cur, cerr := m.own(context.WithoutCancel(ctx), id); cerr == nil && cur.over(m.now()) {
			return Sandbox{}, ended(cur, m.now())
		}
		return Sandbox{}, &Error{Unavailable, fmt.Sprintf("sandbox %s does not go on yet: %s. Resume it again", id, obstacleOf(id, err)), err}
	}
	return m.Get(ctx, id, 0)
}

// toHold returns a sandbox of the caller's whose machine is to be held still or let
// go on, with nobody else doing either until unlock is called.
func (m *Manager) toHold(ctx context.Context, id string) (sb Sandbox, s provisioner.Suspender, unlock func(), err error) {
	if _, err = m.ownLive(ctx, id); err != nil {
		return sb, nil, nil, err // before the lock, as in Extend
	}
	if unlock, err = m.holding.Lock(ctx, id); err != nil {
		return sb, nil, nil, err
	}
	if sb, err = m.ownLive(ctx, id); err == nil {
		s, err = m.suspender(ctx, sb)
	}
	if err != nil {
		unlock()
		return sb, nil, nil, err
	}
	return sb, s, unlock, nil
}

// suspender returns the ability of a sandbox's backend.
func (m *Manager) suspender(ctx context.Context, sb Sandbox) (provisioner.Suspender, error) {
	if err := m.able(ctx, sb); err != nil {
		return nil, err
	}
	s, ok := provisioner.As[provisioner.Suspender](m.Backends[sb.Backend])
	if !ok {
		return nil, Errorf(Conflict, "sandbox %s can't be paused: backend %q does not hold machines still", sb.ID, sb.Backend)
	}
	return s, nil
}
