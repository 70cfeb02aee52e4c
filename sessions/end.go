package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/agentlab-mcp/agentlab/provisioner"
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
	m.remove(sb) // also one that an earlier run left half-destroyed
	sb, err = m.await(ctx, id, m.DestroyTimeout, func(sb Sandbox) bool { return sb.State == Destroyed })
	if err != nil {
		return false, internal(id, err)
	}
	if sb.State != Destroyed {
		return false, Errorf(Unavailable, "sandbox %s is being destroyed, but its backend has not answered within %v; the server goes on with it, nothing more is needed", id, m.DestroyTimeout)
	}
	return false, nil
}

// end moves a live sandbox to TIMEOUT, FAILED or DESTROYING and sets in motion
// what follows: who uses it is cancelled, its machine is removed. All ends
// lead through here.
func (m *Manager) end(ctx context.Context, sb Sandbox, to State, ch Change) error {
	sb, err := m.move(ctx, sb.ID, to, ch)
	if err != nil {
		return err
	}
	m.detach(sb)
	m.remove(sb)
	return nil
}

// expire ends a sandbox that is past its end. Its recorded end is decision
// enough: where the store can't be written, such as on a full disk, the
// machine goes all the same, or nothing would ever free that disk.
func (m *Manager) expire(ctx context.Context, sb Sandbox) error {
	err := m.end(ctx, sb, Timeout, Change{Reason: reasonTTL})
	if err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrNoRecord) {
		return nil
	}
	m.detach(sb)
	m.remove(sb)
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
}

// remove begins to remove the machine of a sandbox that has ended, unless that
// is under way. Besides trim it is the only function that destroys machines.
func (m *Manager) remove(sb Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.removing[sb.ID] || m.stopped {
		return
	}
	m.removing[sb.ID] = true
	mk := m.makers[sb.ID]
	m.tasks.Go(func() {
		m.settle(mk)
		backoff := retry.WithCappedDuration(5*time.Minute, retry.WithJitterPercent(10, retry.NewExponential(time.Second)))
		err := retry.Do(m.ctx, backoff, func(ctx context.Context) error { return m.tryRemove(ctx, sb) })
		if err != nil && m.ctx.Err() == nil {
			m.Log.Error("machine not removed", "id", sb.ID, "err", err)
		}
		m.mu.Lock()
		delete(m.removing, sb.ID)
		m.mu.Unlock()
	})
}

// settle waits until a cancelled making has come to rest, so that it makes no
// machine after the removal, but not for ever: the maker looks again at its end.
func (m *Manager) settle(mk *maker) {
	if mk == nil {
		return
	}
	timer := time.NewTimer(m.DestroyTimeout)
	defer timer.Stop()
	select {
	case <-mk.done:
	case <-timer.C:
	case <-m.ctx.Done():
	}
}

// tryRemove destroys the machine once and records that it is gone.
func (m *Manager) tryRemove(ctx context.Context, sb Sandbox) error {
	cur, err := m.Store.Sandbox(ctx, sb.ID)
	switch {
	case errors.Is(err, ErrNoRecord): // an orphan past its end
	case err != nil:
		return retry.RetryableError(err)
	case !cur.over(m.now()):
		return fmt.Errorf("refused: the record of %s says %s until %v", sb.ID, cur.State, cur.End)
	case cur.Handle != "":
		sb.Handle = cur.Handle
	}
	err = m.destroyMachine(ctx, sb)
	if errors.Is(err, provisioner.ErrNotOurs) {
		return err // if it is ours after all, the reconciler sees it and comes back
	}
	if err != nil {
		m.Log.Warn("destroy machine", "id", sb.ID, "err", err)
		return retry.RetryableError(err)
	}
	if cur.State.Live() { // past its end, and the store could not be written then
		if _, err := m.move(ctx, sb.ID, Timeout, Change{Reason: reasonTTL}); err != nil {
			return retry.RetryableError(err)
		}
	}
	if cur.ID == "" || cur.State == Destroyed {
		return nil
	}
	if _, err := m.move(ctx, sb.ID, Destroyed, Change{}); err != nil && !errors.Is(err, ErrConflict) {
		return retry.RetryableError(err)
	}
	return nil
}

// destroyMachine asks the backend.
func (m *Manager) destroyMachine(ctx context.Context, sb Sandbox) error {
	p, slots, err := m.backend(sb)
	if err != nil {
		return err
	}
	return m.inTurn(ctx, slots, func(ctx context.Context) error {
		start := m.now()
		err := p.Destroy(ctx, sb.Ref())
		m.Watch.Destroyed(sb.Backend, removal(err), m.now().Sub(start))
		return err
	})
}

// inTurn removes a machine with a deadline of its own and in one of the slots
// that a backend has for it: one that hangs delays no other for longer.
func (m *Manager) inTurn(ctx context.Context, slots *backendSlots, remove func(context.Context) error) error {
	if err := slots.remove.Acquire(ctx, 1); err != nil {
		return err
	}
	defer slots.remove.Release(1)
	ctx, cancel := context.WithTimeout(ctx, m.DestroyTimeout)
	defer cancel()
	return remove(ctx)
}

// trim begins to remove a machine that a living sandbox has besides its own,
// unless that is under way. If it fails, the next look comes back to it.
func (m *Manager) trim(backend string, spare provisioner.Ref) {
	t, ok := provisioner.As[provisioner.Trimmer](m.Backends[backend])
	key := spare.Sandbox + " " + spare.Handle
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok || m.removing[key] || m.stopped {
		return
	}
	m.removing[key] = true
	m.tasks.Go(func() {
		err := m.inTurn(m.ctx, m.slots[backend], func(ctx context.Context) error { return t.Trim(ctx, spare) })
		m.Log.Warn("sandbox had a second machine", "id", spare.Sandbox, "handle", spare.Handle, "err", err)
		m.mu.Lock()
		delete(m.removing, key)
		m.mu.Unlock()
	})
}
