package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/internal/turns"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// CreateRequest asks for a sandbox. Zero values are the profile's.
type CreateRequest struct {
	Profile  string
	Name     string
	TTL      time.Duration
	Cores    int
	MemoryMB int
	DiskMB   int
	Network  string
	Wait     time.Duration // how long to wait until it is READY

	// Step is told each state while Create waits and, as long as others come
	// first, the place in line, from 1 on; nil is for who does not care.
	Step func(s State, place int)
}

// Create makes a sandbox and waits up to req.Wait until it is READY. existing
// says that the caller had a live one of that name, which is returned instead.
// The making goes on, on the Manager's own context, when ctx or the wait ends;
// an end of the wait is no error, and the state says how far it has come.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (sb Sandbox, existing bool, err error) {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return Sandbox{}, false, err
	}
	want, err := m.draft(who, req)
	if err != nil {
		return Sandbox{}, false, err
	}
	if err := m.check(ctx, want.Backend, want.Profile); err != nil {
		return Sandbox{}, false, err
	}
	if err := m.vet(ctx, want); err != nil {
		return Sandbox{}, false, err
	}
	if err := m.room(ctx, want); err != nil {
		return Sandbox{}, false, err
	}
	defer m.entered(want.ID)
	for end := time.Now().Add(req.Wait); ; req.Wait = time.Until(end) {
		var id string
		id, sb, existing, err = m.obtain(ctx, want, m.quota(who), req)
		if !errors.Is(err, errNotHandedOver) || ctx.Err() != nil {
			return sb, existing, err
		}
		// On with the next one, when this one no longer counts: nobody has two in
		// their quota for one that they asked for.
		gone, aerr := m.await(ctx, id, m.DestroyTimeout, func(sb Sandbox) bool { return sb.State == Destroyed })
		if aerr != nil || gone.State != Destroyed {
			return sb, existing, err
		}
	}
}

// obtain is one try of Create. The id is that of what it made or found.
func (m *Manager) obtain(ctx context.Context, want Sandbox, quota Quota, req CreateRequest) (id string, sb Sandbox, existing bool, err error) {
	sb, existing, err = m.enter(ctx, want, quota)
	if err != nil {
		return "", Sandbox{}, false, err
	}
	id = sb.ID
	if existing {
		sb, err = m.Get(ctx, id, req.Wait)
		return id, sb, true, err
	}
	m.alarm.notice(sb.End)
	if mk := m.makeFor(ctx, sb); mk != nil { // else we are stopping: the next start makes it
		sb, err = m.made(ctx, mk, sb, req)
	}
	return id, sb, false, err
}

// quota returns the limits of a principal: its own before the installation's.
func (m *Manager) quota(who Principal) Quota {
	return Quota{
		Sandboxes: cmp.Or(who.Quota.Sandboxes, m.Quota.Sandboxes),
		MemoryMB:  cmp.Or(who.Quota.MemoryMB, m.Quota.MemoryMB),
	}
}

// record adds the sandbox to the store.
func (m *Manager) record(ctx context.Context, want Sandbox, quota Quota) (Sandbox, bool, error) {
	for {
		sb, existing, err := m.admit(ctx, want, quota)
		switch {
		case errors.Is(err, ErrOverQuota):
			own, err := m.Store.List(ctx, Query{Owner: want.Owner, Ending: true})
			if err != nil {
				return Sandbox{}, false, internal(want.ID, err)
			}
			return Sandbox{}, false, overQuota(quota, want, own, m.now())
		case err != nil:
			return Sandbox{}, false, internal(want.ID, err)
		case existing && sb.over(m.now()): // the reaper is late: the name is free again
			if err := m.expire(ctx, sb); err != nil {
				return Sandbox{}, false, internal(sb.ID, err)
			}
		default:
			return sb, existing, nil
		}
	}
}

// made waits for the making and returns the sandbox as it is then.
func (m *Manager) made(ctx context.Context, mk *maker, sb Sandbox, req CreateRequest) (Sandbox, error) {
	timer := time.NewTimer(req.Wait)
	defer timer.Stop()
	for state := Requested; ; {
		changed, leave := m.hub.watch(sb.ID)
		place, moved := mk.turn.Place()
		if place == 0 {
			moved = nil // it moves for others
			if now, err := m.Store.Sandbox(ctx, sb.ID); err == nil {
				state = now.State
			}
		}
		if req.Step != nil {
			req.Step(state, place)
		}
		var err error
		over := true
		select {
		case <-changed:
			over = false
		case <-moved:
			over = false
		case <-mk.done:
			err = mk.err
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		leave()
		switch {
		case ctx.Err() != nil:
			return sb, ctx.Err()
		case err != nil:
			return Sandbox{}, err
		case over:
			return m.Get(ctx, sb.ID, 0)
		}
	}
}

// maker is the making of one sandbox.
type maker struct {
	keys   int // of the sandbox that it makes: that of a pool's member is another's
	turn   *turns.Turn
	until  atomic.Pointer[time.Time] // its deadline; nil while it waits for its turn
	cancel context.CancelFunc
	done   chan struct{}
	err    error // *Error, set before done is closed
}

// make begins to make the machine of a sandbox, or to go on with it after a
// crash.
func (m *Manager) make(sb Sandbox) { m.makeFor(m.ctx, sb) }

// makeFor is make in the trace of asker, whose end is not that of the making. It
// returns whoever does it: nil if the Manager is stopping, or has no such backend.
func (m *Manager) makeFor(asker context.Context, sb Sandbox) *maker {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, slots := m.makers[sb.ID], m.slots[sb.Backend]
	if before != nil && before.keys == sb.Keys || m.ctx.Err() != nil || slots == nil {
		return before
	}
	line := slots.make
	if sb.claimed() { // whose machine is there
		line = turns.New(1)
	}
	ctx, cancel := context.WithCancel(span.Join(m.ctx, asker))
	mk := &maker{keys: sb.Keys, turn: line.Join(sb.Owner), cancel: cancel, done: make(chan struct{})}
	m.makers[sb.ID] = mk
	delete(m.entering, sb.ID)
	m.tasks.Go(func() {
		defer cancel()
		if before != nil { // who has made it READY and is about to go
			<-before.done
		}
		mk.err = m.bringUp(ctx, mk, sb)
		mk.turn.Done()
		m.tell(sb, mk.err)
		m.mu.Lock()
		if m.makers[sb.ID] == mk {
			delete(m.makers, sb.ID)
		}
		m.mu.Unlock()
		close(mk.done)
	})
	return mk
}

// begin notes until when it may take, now that its turn has come: by the monotonic
// clock, as it is a duration.
func (mk *maker) begin(until time.Time) { mk.until.Store(&until) }

// inTime says that it has not used up its time.
func (mk *maker) inTime() bool {
	until := mk.until.Load()
	return until == nil || time.Now().Before(*until)
}

// Place returns where in line a sandbox is, from 1 on, that waits to be made; 0
// if it does not.
func (m *Manager) Place(id string) int {
	m.mu.Lock()
	mk := m.makers[id]
	m.mu.Unlock()
	if mk == nil {
		return 0
	}
	place, _ := mk.turn.Place()
	return place
}

// bringUp makes the machine and sees to what is left if that fails.
func (m *Manager) bringUp(ctx context.Context, mk *maker, sb Sandbox) error {
	id, err := sb.ID, m.step(ctx, sb.Backend, "wait", mk.turn.Wait)
	mk.begin(time.Now().Add(m.MakeTimeout))
	ctx, cancel := context.WithTimeout(ctx, m.MakeTimeout)
	defer cancel()
	if err == nil {
		sb, err = m.Store.Sandbox(ctx, id)
	}
	switch {
	case err != nil:
	case sb.claimed():
		err = m.step(ctx, sb.Backend, "handover", func(ctx context.Context) error { return m.handOver(ctx, sb) })
	case sb.State.making():
		err = m.build(ctx, mk, sb)
	}
	if err == nil {
		return nil
	}
	if m.ctx.Err() != nil {
		return errStopping // the record stays as it is: the next start goes on
	}
	cur, rerr := m.Store.Sandbox(m.ctx, id)
	switch {
	case rerr == nil && cur.over(m.now()):
		m.remove(cur) // it ended meanwhile, maybe before its machine was there to be removed
		return ended(cur, m.now())
	case rerr == nil && !cur.State.making(): // another maker was faster
		return nil
	}
	m.Log.Error("making a sandbox", "id", id, "err", err)
	err = m.makeError(ctx, id, err)
	var shown *Error
	errors.As(err, &shown)
	reason := shown.Msg
	if shown.Kind == Internal {
		reason = "internal error"
	}
	if rerr == nil {
		rerr = m.end(m.ctx, cur, Failed, Change{Reason: "failed: " + reason})
	}
	if rerr != nil {
		m.Log.Error("record a failed sandbox", "id", id, "err", rerr) // past its deadline the reconciler does
	}
	return err
}

// provision does the steps from REQUESTED to BOOTING.
func (m *Manager) provision(ctx context.Context, sb Sandbox) (_ Sandbox, machine provisioner.Machine, err error) {
	p, _, err := m.backend(sb)
	if err != nil {
		return sb, machine, err
	}
	spec, err := m.spec(sb)
	if err != nil {
		return sb, machine, err
	}
	if sb.State == Requested {
		if sb, err = m.move(ctx, sb.ID, Provisioning, Change{}); err != nil {
			return sb, machine, err
		}
	}
	spec.Handle = sb.Handle
	spec.Intend = func(ctx context.Context, handle string) error { return m.Store.Intend(ctx, sb.ID, handle) }
	spec.Started = func(ctx context.Context, machine provisioner.Machine) (err error) {
		if sb.State == Provisioning {
			sb, err = m.move(ctx, sb.ID, Booting, Change{Machine: &machine})
		}
		return err
	}
	machine, err = p.Create(ctx, spec)
	if err == nil {
		err = spec.Started(ctx, machine) // an earlier run may have started it
	}
	sb.Handle = machine.Handle // which need not be the one that was started first
	return sb, machine, err
}

// build does the steps from REQUESTED to READY, those done before a crash too:
// [provisioner.Provisioner.Create] adopts what they left.
func (m *Manager) build(ctx context.Context, mk *maker, sb Sandbox) error {
	var machine provisioner.Machine
	err := m.step(ctx, sb.Backend, "provision", func(ctx context.Context) (err error) {
		sb, machine, err = m.provision(ctx, sb)
		return err
	})
	mk.turn.Done() // the guest boots without us
	if err != nil {
		return err
	}
	switch err = m.step(ctx, sb.Backend, "boot", func(ctx context.Context) error { return m.awaitGuest(ctx, sb) }); {
	case errors.Is(err, guest.ErrNoCommand):
		return &Error{Unavailable, fmt.Sprintf("the root of profile %s has no program %q, so it can't be used until the operator mends it", sb.Profile, firstCommand), err}
	case err != nil:
		return &Error{Unavailable, fmt.Sprintf("sandbox %s did not boot and its machine is removed; try again", sb.ID), err}
	}
	_, err = m.move(ctx, sb.ID, Ready, Change{Machine: &machine})
	return err
}

// makeError words a failed making, of which ctx was the context. A step may
// have had a shorter limit than the whole, so not every deadline is that of ctx.
func (m *Manager) makeError(ctx context.Context, id string, err error) error {
	var known *Error
	switch late := errors.Is(err, context.DeadlineExceeded); {
	case late && ctx.Err() != nil:
		return &Error{Unavailable, fmt.Sprintf("sandbox %s was not ready within %v and is removed; try again later", id, m.MakeTimeout), err}
	case late && !errors.As(err, &known):
		return &Error{Unavailable, fmt.Sprintf("sandbox %s could not be made, a step of it took too long, and it is removed; try again later", id), err}
	case isCanceled(err) && !errors.As(err, &known): // by an end that could not be recorded, and that a clock set back since has unsaid
		return &Error{Unavailable, fmt.Sprintf("the making of sandbox %s was given up, and it is removed; try again", id), err}
	}
	return internal(id, err)
}

// spec returns what the machine of sb is to be. One that is made ahead is what its
// pool has recorded, or it would be given away as that.
func (m *Manager) spec(sb Sandbox) (provisioner.Spec, error) {
	p, ok := m.ProfileOf(sb)
	switch {
	case !ok:
		_, err := m.Profile(sb.Profile)
		return provisioner.Spec{}, err
	case sb.Recipe != "" && !madeBy(p, sb):
		return provisioner.Spec{}, Errorf(Conflict, "profile %s has changed", p.Name)
	case sb.State != Booting && p.Backend != sb.Backend: // whose root is nothing to this backend
		return provisioner.Spec{}, Errorf(Conflict, "profile %s is of another backend now; create it again", p.Name)
	}
	return m.specOf(p, sb), nil
}

// specOf is spec by that profile.
func (m *Manager) specOf(p Profile, sb Sandbox) provisioner.Spec {
	return provisioner.Spec{
		Papers:   m.papers(sb),
		Hostname: hostname(sb),
		Root:     p.Root,
		Cores:    sb.Cores,
		MemoryMB: sb.MemoryMB,
		DiskMB:   sb.DiskMB,
		MaxProcs: p.MaxProcs,
		Network:  sb.Network,
		Pooled:   sb.Pooled(),
	}
}

func (m *Manager) papers(sb Sandbox) provisioner.Papers {
	return provisioner.Papers{
		Instance: m.Instance, Sandbox: sb.ID, Owner: sb.Owner, Name: sb.Name, Profile: sb.Profile,
		Created: sb.Created, End: sb.End, MaxEnd: sb.MaxEnd, MemoryMB: sb.MemoryMB, Keys: sb.Keys, Stopped: sb.State.off(),
	}
}

// hostname is the sandbox's name if that is one, else its id.
func hostname(sb Sandbox) string {
	if sb.Name == "" || sb.Name[0] == '-' || sb.Name[len(sb.Name)-1] == '-' {
		return sb.ID
	}
	return sb.Name
}
