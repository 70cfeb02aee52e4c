package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

const (
	listLimit  = time.Minute         // to list the machines of a backend
	retention  = 30 * 24 * time.Hour // of what has ended
	keepEvents = 1_000_000           // of all, however young
	pruneEvery = time.Hour
	secondLook = 2 * time.Second // after a look that called for another one
	reapBatch  = 64
)

// Run reaps, reconciles and finishes what an earlier run left, until ctx ends.
// Machines that are being made then stay as they are, for the next run to go
// on with. A Manager runs once.
func (m *Manager) Run(ctx context.Context) error {
	m.init()
	m.spawn(m.reap)
	m.spawn(m.idle)
	m.spawn(m.prune)
	for name, p := range m.Backends {
		m.spawn(func(ctx context.Context) { m.reconcileLoop(ctx, name, p) })
		if g, ok := provisioner.As[provisioner.Guarder](p); ok {
			m.spawn(g.Guard)
		}
	}
	m.beginPools()
	<-ctx.Done()
	m.mu.Lock()
	m.stop(errStopping) // so that no task begins once they are waited for
	m.mu.Unlock()
	m.lines.endAll(errStopping)
	m.tasks.Wait()
	return nil
}

// reap ends every sandbox at its time.
func (m *Manager) reap(ctx context.Context) {
	for ctx.Err() == nil {
		m.alarm.set(forever) // whatever is noticed while we look calls for another look
		next := m.Sweep(ctx)
		m.alarm.set(next)
		m.alarm.sleep(ctx, next.Sub(m.now()))
	}
}

// Sweep ends what is past its end and returns when to look again. It reads what
// is due and some more, however many sandboxes there are. Run does so in time.
func (m *Manager) Sweep(ctx context.Context) time.Time {
	m.init()
	const again = time.Second
	for unseen := 0; ; {
		limit := reapBatch + unseen
		due, err := m.Store.List(ctx, Query{ByEnd: true, Limit: limit})
		if err != nil {
			m.Log.Error("reap", "err", err)
			return m.now().Add(again)
		}
		var failed error
		unseen = 0
		for _, sb := range due {
			now := m.now()
			if now.Before(sb.End) {
				return sb.End
			}
			if sb.Pooled() && !m.seen(sb) {
				unseen++ // it may have been claimed: its machine knows
				continue
			}
			failed = errors.Join(failed, m.expire(ctx, sb))
		}
		if failed != nil {
			m.Log.Error("reap", "err", failed)
			return m.now().Add(again)
		}
		if len(due) < limit {
			return m.now().Add(maxSleep)
		}
	}
}

// reconcileLoop compares records and machines of one backend. Each has its
// own, so that one that hangs holds up no other.
func (m *Manager) reconcileLoop(ctx context.Context, name string, p provisioner.Provisioner) {
	var last looked
	for {
		var err error
		if last, err = m.reconcile(ctx, name, p, last); err != nil && ctx.Err() == nil {
			m.Log.Error("reconcile: nothing decided", "backend", name, "err", err)
		}
		wait := m.ReconcileEvery
		if len(last.doubts) > 0 { // what is dead is to be gone within one period
			wait = min(wait, secondLook)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// looked is what a look at the machines of a backend leaves to the next one.
type looked struct {
	doubts map[string]verb // by sandbox: what the next one must agree to
	places places
}

// reconcile does what plan says, after the last look.
func (m *Manager) reconcile(ctx context.Context, name string, p provisioner.Provisioner, last looked) (looked, error) {
	recorded, seen, todo, err := m.decide(ctx, name, p)
	if err != nil {
		return looked{places: last.places}, err
	}
	now := looked{doubts: map[string]verb{}, places: m.tellMoved(ctx, last.places, seen)}
	trusted := true
	var left []string
	for _, a := range todo {
		if a.doubt && last.doubts[a.sb.ID] != a.do {
			now.doubts[a.sb.ID] = a.do
			continue
		}
		if a.do == doLeave {
			left = append(left, a.sb.ID)
			continue
		}
		if err := m.do(ctx, name, a); err != nil {
			m.Log.Error("reconcile", "id", a.sb.ID, "do", a.do, "err", err)
			trusted = trusted && a.do != doTrust && a.do != doAdopt
		}
	}
	if trusted {
		m.slots[name].left.Store(&left)
		m.slots[name].look()
		m.drainStrays(ctx, recorded)
	}
	return now, nil
}

// seen says that the record of a member of a pool was compared with its machine
// in this run, or is of one that was made in it: before, it may be older than the
// machine, which may be somebody's by now. What is of no backend of ours never is,
// and is taken as it is recorded.
func (m *Manager) seen(sb Sandbox) bool {
	slots := m.slots[sb.Backend]
	if slots == nil {
		return true
	}
	select {
	case <-slots.looked:
		return !slices.Contains(*slots.left.Load(), sb.ID)
	default:
		return false
	}
}

// look lists the machines of a backend that are ours.
func (m *Manager) look(ctx context.Context, p provisioner.Provisioner) ([]provisioner.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	all, err := p.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	ours := all[:0:0]
	for _, mach := range all {
		if !mach.Unread && (mach.Papers.Instance != m.Instance || mach.Papers.Sandbox != mach.Sandbox) {
			m.Log.Warn("machine is not ours", "sandbox", mach.Sandbox, "handle", mach.Handle)
			continue
		}
		ours = append(ours, mach)
	}
	return ours, nil
}

// alsoRecorded adds the records of seen machines that are not among recorded:
// those born meanwhile, and DESTROYED ones whose machine is still there.
func (m *Manager) alsoRecorded(ctx context.Context, recorded []Sandbox, seen []provisioner.Machine) ([]Sandbox, error) {
	known := make(map[string]bool, len(recorded))
	for _, sb := range recorded {
		known[sb.ID] = true
	}
	for _, mach := range seen {
		if mach.Unread || known[mach.Sandbox] {
			continue
		}
		sb, err := m.Store.Sandbox(ctx, mach.Sandbox)
		if err == nil {
			recorded = append(recorded, sb)
		} else if !errors.Is(err, ErrNoRecord) {
			return nil, err
		}
	}
	return recorded, nil
}

// do carries out one action. A conflict says that the sandbox has moved on
// since it was read, and the next look decides anew.
func (m *Manager) do(ctx context.Context, backend string, a action) (err error) {
	switch a.do {
	case doMake:
		if m.busy(a.sb.ID) {
			return nil
		}
		if sb, ok := m.unmade(ctx, a.sb.ID); ok && !m.waits(sb) {
			m.make(sb)
		}
	case doExpire:
		err = m.expire(ctx, a.sb)
	case doFail:
		if a.sb.State.making() {
			if m.makes(a.sb.ID) { // it came late in line
				return nil
			}
			if _, ok := m.unmade(ctx, a.sb.ID); !ok {
				return nil
			}
		}
		err = m.end(ctx, a.sb, Failed, Change{Reason: a.reason})
	case doRemove:
		a.sb.Backend = backend
		m.remove(a.sb)
	case doTrim:
		m.trim(backend, a.sb.Ref())
	case doFinish:
		if !m.busy(a.sb.ID) {
			_, err = m.move(ctx, a.sb.ID, Destroyed, Change{})
		}
	case doAdopt:
		a.sb.Backend = backend
		err = m.adopt(ctx, a.sb)
	case doTrust:
		err = m.trust(ctx, a.sb)
	case doStop, doStart, doHalt, doWake:
		err = m.followPower(ctx, a)
	case doLeave: // it only has to be known
	}
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// busy says that the machine of a sandbox is being made or removed here, so
// that its absence says nothing yet.
func (m *Manager) busy(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.makers[id] != nil || m.removing[id] != nil
}

// makes says that the machine of a sandbox is being made and has time left.
func (m *Manager) makes(id string) bool {
	m.mu.Lock()
	mk := m.makers[id]
	m.mu.Unlock()
	return mk != nil && mk.inTime()
}

// unmade returns a sandbox as it is now, and whether it is still to be made: that
// may have come to its end, or the sandbox to another owner, since the record was
// read.
func (m *Manager) unmade(ctx context.Context, id string) (Sandbox, bool) {
	sb, err := m.Store.Sandbox(ctx, id)
	return sb, err == nil && sb.State.making()
}

// waits says that nobody can say what sb is to be made of until its profile, which
// was broken when we began, is mended. What is claimed is made.
func (m *Manager) waits(sb Sandbox) bool {
	_, known := m.ProfileOf(sb)
	return !known && !sb.claimed() && m.profiles.Load().broken(sb.Profile)
}

// adopt records a sandbox for a machine that has none, and goes on making it.
func (m *Manager) adopt(ctx context.Context, sb Sandbox) error {
	sb, err := m.rerecord(ctx, sb)
	if err != nil || sb.ID == "" {
		return err
	}
	m.alarm.notice(sb.End)
	if sb.State.making() {
		m.make(sb)
	}
	return nil
}

// trust records what a machine says that was handed over, and whose record is
// from before: a power failure has cost the last changes, or a backup was restored.
func (m *Manager) trust(ctx context.Context, sb Sandbox) error {
	sb.Ready = m.now()
	sb, err := m.Store.Trust(ctx, sb, Change{At: sb.Ready, Reason: "as its machine's papers say"})
	if err != nil {
		return err
	}
	m.alarm.notice(sb.End)
	m.hub.publish(sb.ID)
	m.Log.Warn("record older than its machine corrected", "id", sb.ID, "owner", sb.Owner, "end", sb.End)
	return nil
}

// rerecord records a sandbox as its machine tells of it. One that is being made
// of no profile of ours is left to whoever makes it, such as agentlab doctor,
// and none is returned: we could but fail to go on with it, and remove it.
func (m *Manager) rerecord(ctx context.Context, sb Sandbox) (Sandbox, error) {
	p, ok := m.ProfileOf(sb)
	switch {
	case ok:
		sb.Cores, sb.DiskMB, sb.Network = p.Cores, p.DiskMB, p.Network
	case sb.State.making():
		return Sandbox{}, nil
	}
	ch := Change{At: m.now(), Reason: "adopted"}
	_, existing, err := m.Store.Add(ctx, sb, Quota{}, ch)
	if existing { // its owner has given the name to another one since
		sb.Name = ""
		_, _, err = m.Store.Add(ctx, sb, Quota{}, ch)
	}
	if err != nil {
		return Sandbox{}, fmt.Errorf("adopt %s: %w", sb.ID, err)
	}
	m.Log.Warn("machine without a record adopted", "id", sb.ID, "owner", sb.Owner, "state", sb.State, "end", sb.End)
	return sb, nil
}

// prune forgets what ended long ago.
func (m *Manager) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = m.Store.Prune(ctx, m.now().Add(-retention), keepEvents); err != nil {
				m.Log.Warn("prune", "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// maxSleep bounds the reaper's sleep, which is by the monotonic clock: the
// wall clock, which ends are told by, may be set meanwhile.
const maxSleep = time.Minute

var forever = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// alarm wakes the reaper when an end comes up that is sooner than the one it
// sleeps for.
type alarm struct {
	mu   sync.Mutex
	at   time.Time
	ring chan struct{}
}

// set says until when the reaper is going to sleep.
func (a *alarm) set(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = at
}

// notice tells of an end.
func (a *alarm) notice(end time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if end.Before(a.at) {
		select {
		case a.ring <- struct{}{}:
		default:
		}
	}
}

func (a *alarm) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(min(d, maxSleep))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.ring:
	case <-ctx.Done():
	}
}
