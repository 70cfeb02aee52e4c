package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// handOverLimit is how long a machine may take to become its new owner's. What
// ends sooner is not claimed.
const handOverLimit = 30 * time.Second

// errNotHandedOver: a machine was claimed and did not become its owner's. It is
// removed, and another one does as well.
var errNotHandedOver = errors.New("machine not handed over")

// enter records the sandbox: with a machine that was made ahead, if there is one
// for it, or as one to be made.
func (m *Manager) enter(ctx context.Context, want Sandbox, quota Quota) (Sandbox, bool, error) {
	p := m.poolOf(want)
	if p != nil && p.profile.makes(want) {
		if err := p.await(ctx); err != nil {
			return Sandbox{}, false, err
		}
		want.Recipe, _, _ = p.state()
	}
	if want.Recipe == "" {
		return m.record(ctx, want, quota)
	}
	turn := p.gate.Join(want.Owner)
	defer turn.Done()
	if err := turn.Wait(ctx); err != nil {
		return Sandbox{}, false, err
	}
	sb, existing, err := m.record(ctx, want, quota)
	if err == nil && !existing && sb.Keys == 0 {
		m.Watch.Claimed(sb.Profile, "cold")
	}
	return sb, existing, err
}

// await waits until it is known what members are made of, since what an earlier
// run has made is there before the backend has answered, but not for ever.
func (p *pool) await(ctx context.Context) error {
	timer := time.NewTimer(checkLimit)
	defer timer.Stop()
	select {
	case <-p.begun:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// handOver does the step from BOOTING to READY of a sandbox that was claimed, also
// if it was done before a crash.
func (m *Manager) handOver(ctx context.Context, sb Sandbox) error {
	if err := m.rekey(ctx, sb); err != nil {
		return &Error{
			Unavailable, fmt.Sprintf("sandbox %s could not be handed over and its machine is removed; create it again", sb.ID),
			fmt.Errorf("%w: %w", errNotHandedOver, err),
		}
	}
	_, err := m.move(ctx, sb.ID, Ready, Change{})
	return err
}

// rekey makes the machine its owner's, and the channel to it a new one.
func (m *Manager) rekey(ctx context.Context, sb Sandbox) error {
	p, _, err := m.backend(sb)
	if err != nil {
		return err
	}
	pooler, ok := provisioner.As[provisioner.Pooler](p)
	if !ok {
		return fmt.Errorf("backend %q can't hand over machines: %w", sb.Backend, provisioner.ErrUnavailable)
	}
	profile, _ := m.ProfileOf(sb) // of one that is gone nothing is needed
	l := m.lines.pin(sb.ID)
	defer m.lines.unpin(sb.ID, l)
	_, err = m.lines.exchange(ctx, l, handOverLimit, func(ctx context.Context, old guest.Conn) (guest.Conn, error) {
		return pooler.Rekey(ctx, sb.Ref(), m.specOf(profile, sb), old)
	})
	return err
}

// admit adds the sandbox to the store, or takes a member of a pool for it if it
// has a recipe.
func (m *Manager) admit(ctx context.Context, want Sandbox, quota Quota) (Sandbox, bool, error) {
	now := m.now()
	ch := Change{At: now, By: want.Owner}
	if want.Recipe == "" {
		return m.Store.Add(ctx, want, quota, ch)
	}
	fit := Fit{EndsAfter: now.Add(handOverLimit), Except: *m.slots[want.Backend].left.Load()}
	return m.Store.Claim(ctx, want, quota, fit, ch)
}

// tell tells those who want to know how the making of sb has ended.
func (m *Manager) tell(sb Sandbox, err error) {
	if errors.Is(err, errStopping) { // it goes on
		return
	}
	m.Watch.Created(sb.Backend, outcome(err), m.now().Sub(sb.Created))
	switch p := m.poolOf(sb); {
	case sb.claimed() && err == nil:
		m.Watch.Claimed(sb.Profile, "warm")
	case sb.claimed():
		m.Watch.Claimed(sb.Profile, "failed")
	case sb.Pooled() && p != nil:
		p.end(sb, err)
	}
	m.wakePools(sb.Backend)
}
