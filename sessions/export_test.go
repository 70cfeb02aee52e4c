package sessions

import (
	"context"
	"time"
)

// Remove asks for the removal of a machine, as a mistake of ours might.
func (m *Manager) Remove(sb Sandbox) {
	m.init()
	m.remove(sb)
}

// Reconcile is a look of the reconciler.
func (m *Manager) Reconcile(ctx context.Context, backend string) error {
	m.init()
	_, err := m.reconcile(ctx, backend, m.Backends[backend], looked{})
	return err
}

// LookForIdle is a look for idle sandboxes, of which calls were seen since started.
func (m *Manager) LookForIdle(ctx context.Context, started time.Time) error {
	m.init()
	return m.lookForIdle(ctx, started, m.now(), make(chan struct{}, 1))
}

// Settle waits for all that runs between calls.
func (m *Manager) Settle() { m.tasks.Wait() }

// Make makes the machine of a sandbox, as it was read a while ago.
func (m *Manager) Make(sb Sandbox) { m.make(sb) }

// GoOn goes on with a making, as the reconciler does, of a sandbox as it was read a
// while ago.
func (m *Manager) GoOn(ctx context.Context, sb Sandbox) error {
	return m.do(ctx, sb.Backend, action{do: doMake, sb: sb})
}
