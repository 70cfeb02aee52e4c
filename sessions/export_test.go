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

// OpenPool has members of a pool be made from what word says, from now on, as if its
// keeper had asked, and returns their recipe.
func (m *Manager) OpenPool(profile, word string) string {
	m.init()
	p := m.profiles.Load().pools[profile]
	m.slots[p.profile.Backend].look()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.recipe == "" {
		close(p.begun)
	}
	p.recipe, p.backoff, p.rests = recipe(word, p.profile, p.draft(m.now())), nil, time.Time{}
	return p.recipe
}

// Tend is a look of the keeper of a pool, who asks what its members are made from.
func (m *Manager) Tend(ctx context.Context, profile string) error {
	m.init()
	p := m.profiles.Load().pools[profile]
	p.mu.Lock()
	p.asked = time.Time{}
	p.mu.Unlock()
	_, err := m.tend(ctx, p)
	return err
}

// End ends what goes on between calls, as the end of Run does.
func (m *Manager) End() { m.stop(errStopping) }

// Settle waits for all that runs between calls.
func (m *Manager) Settle() { m.tasks.Wait() }

// Make makes the machine of a sandbox, as it was read a while ago.
func (m *Manager) Make(sb Sandbox) { m.make(sb) }

// GoOn goes on with a making, as the reconciler does, of a sandbox as it was read a
// while ago.
func (m *Manager) GoOn(ctx context.Context, sb Sandbox) error {
	return m.do(ctx, sb.Backend, action{do: doMake, sb: sb})
}
