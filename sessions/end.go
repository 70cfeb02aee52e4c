package sessions

import (
	"context"
	"errors"
)

// The reasons of a normal end.
const (
	reasonTTL   = "ttl"
	reasonOwner = "destroyed by its owner"
)

// Destroy destroys a sandbox in whatever state and waits until its machine is
// gone. gone says that there was none: an unknown id, another's, or one
// destroyed before. If the backend hangs it is an Unavailable error, and the
// destroying goes on.
func (m *Manager) Destroy(ctx context.Context, id string) (gone bool, err error) {
	m.init()
	sb, err := m.own(ctx, id)
	var e *Error
	if errors.As(err, &e) && e.Kind == NotFound {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if sb.State == Destroyed {
		return true, nil
	}
	if sb.State.Live() {
		err = m.end(ctx, sb, Destroying, Change{By: sb.Owner, Reason: reasonOwner})
		if err != nil && !errors.Is(err, ErrConflict) { // else it ended by itself meanwhile
			return false, internal(id, err)
		}
	}
	m.removeFor(ctx, sb) // also one that an earlier run left half-destroyed
	sb, err = m.await(ctx, id, m.DestroyTimeout, func(sb Sandbox) bool { return sb.State == Destroyed })
	if err != nil {
		return false, internal(id, err)
	}
	if sb.State != Destroyed {
		return false, Errorf(Unavailable, "sandbox %s is being destroyed, but %s. The server goes on with it, nothing more is needed", id, m.obstacle(id))
	}
	return false, nil
}

// end moves a live sandbox to TIMEOUT, FAILED or DESTROYING and sets in motion
// what follows: who uses it is cancelled, its machine is removed. All ends
// lead through here.
//
// Whoever decided it did so of sb as it was read: if it is another's by now, that
// is a conflict.
func (m *Manager) end(ctx context.Context, sb Sandbox, to State, ch Change) error {
	ch.Owner = sb.Owner
	sb, err := m.move(ctx, sb.ID, to, ch)
	if err != nil {
		return err
	}
	m.detach(sb)
	m.removeFor(ctx, sb)
	return nil
}

// expire ends a sandbox that is past its end, unless its owner has been given a
// later one since it was read. Its recorded end is decision enough: where the
// store can't be written, such as on a full disk, the machine goes all the same,
// or nothing would ever free that disk.
func (m *Manager) expire(ctx context.Context, sb Sandbox) error {
	err := m.end(ctx, sb, Timeout, Change{Reason: reasonTTL, Due: true})
	if err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrNoRecord) {
		return nil
	}
	m.remove(sb) // which looks at the record again
	return err
}

// detach ends what goes on with a sandbox that has ended.
func (m *Manager) detach(sb Sandbox) {
	m.lines.end(sb.ID, ended(sb, m.now()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if mk := m.makers[sb.ID]; mk != nil {
		mk.cancel()
	}
	if pw := m.powering[sb.ID]; pw != nil {
		pw.cancel()
	}
}
