package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// relabelLimit is how long a backend may take to change the papers of a machine.
const relabelLimit = 30 * time.Second

// Extend moves the end of a sandbox to ttl from now, later or sooner, never
// past its MaxEnd: that is an Invalid error which says the most there may be.
func (m *Manager) Extend(ctx context.Context, id string, ttl time.Duration) (Sandbox, error) {
	m.init()
	if _, err := m.own(ctx, id); err != nil {
		return Sandbox{}, err // before the lock: who may not, learns nothing from waiting
	}
	unlock, err := m.extend.Lock(ctx, id) // papers and record change in step
	if err != nil {
		return Sandbox{}, err
	}
	defer unlock()
	l := m.lines.pin(id) // who extends it, uses it
	defer m.lines.unpin(id, l)
	sb, err := m.own(ctx, id)
	if err != nil {
		return Sandbox{}, err
	}
	now := m.now()
	if err := m.mayEnd(sb, now, ttl); err != nil {
		return Sandbox{}, err
	}
	m.lines.use(id, l, now)
	sb, err = m.setEnd(ctx, sb, now.Add(ttl), now)
	if errors.Is(err, ErrConflict) { // its end has come meanwhile
		if cur, cerr := m.own(ctx, id); cerr == nil && cur.over(m.now()) {
			return Sandbox{}, ended(cur, m.now())
		}
	}
	if err != nil {
		return Sandbox{}, internal(id, err)
	}
	m.hub.publish(id)
	m.alarm.notice(sb.End)
	return sb, nil
}

func (m *Manager) mayEnd(sb Sandbox, now time.Time, ttl time.Duration) error {
	if sb.over(now) {
		return ended(sb, now)
	}
	if sb.State.making() {
		return Errorf(Conflict, "sandbox %s is still being made (%s); extend it when it is READY", sb.ID, sb.State)
	}
	least := time.Second
	if p, ok := m.ProfileOf(sb); ok {
		least = p.MinTTL
	}
	left := sb.MaxEnd.Sub(now)
	if err := validTTL(ttl, min(least, left), left); err != nil {
		return Errorf(Invalid, "%v: sandbox %s may live until %s at most", err, sb.ID, sb.MaxEnd.Format(time.RFC3339))
	}
	return nil
}

// setEnd writes the end on the machine and in the record, so that the papers
// never name an earlier end than the record does: if we crash in between, and
// lose the store too, the sandbox is not reaped before the time that its owner
// was told. The other way round costs at most the time up to MaxEnd.
func (m *Manager) setEnd(ctx context.Context, sb Sandbox, end, now time.Time) (Sandbox, error) {
	papers := sb
	papers.End = end
	ch := Change{At: now, By: sb.Owner}
	if end.After(sb.End) {
		if err := m.relabel(ctx, papers); err != nil {
			return Sandbox{}, err
		}
		return m.Store.SetEnd(ctx, sb.ID, end, ch)
	}
	kept, err := m.Store.SetEnd(ctx, sb.ID, end, ch)
	if err != nil {
		return Sandbox{}, err
	}
	if err := m.relabel(context.WithoutCancel(ctx), papers); err != nil {
		m.Log.Warn("papers name a later end than the record", "id", sb.ID, "err", err)
	}
	return kept, nil
}

func (m *Manager) relabel(ctx context.Context, sb Sandbox) error {
	p, _, err := m.backend(sb)
	if err != nil {
		return err
	}
	r, ok := provisioner.As[provisioner.Relabeler](p)
	if !ok {
		return fmt.Errorf("backend %q can't change papers", sb.Backend)
	}
	ctx, cancel := context.WithTimeout(ctx, relabelLimit)
	defer cancel()
	return r.Relabel(ctx, sb.Ref(), m.papers(sb))
}
