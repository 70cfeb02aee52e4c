package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"
	"golang.org/x/sync/semaphore"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

const (
	// slowRemoval is how long a removal may take before others get its turn: one
	// that hangs goes on beside them until its own time is over. So at most
	// DestroyTimeout/slowRemoval times the slots of a backend are in flight.
	slowRemoval = 5 * time.Second
	// retryPause is how long a repeated try that has failed keeps its turn. With
	// a thousand machines of a backend that is down it, and not their number,
	// says how often that is asked.
	retryPause = time.Second
)

// newBackoff returns the pauses between the tries of what has failed: from a
// second on ever longer, up to five minutes, without end.
func newBackoff() retry.Backoff {
	return retry.WithCappedDuration(5*time.Minute, retry.WithJitterPercent(10, retry.NewExponential(time.Second)))
}

// errAlive: the machine of a sandbox that lives was to be removed.
var errAlive = errors.New("its record says that it lives")

// lane is a number of turns to remove machines of one backend.
type lane struct {
	turns *semaphore.Weighted
	pause time.Duration // that a failed removal keeps its turn
}

// newLanes returns the lane of first tries, and that of later ones: what was not
// tried yet waits for nothing that has failed.
func newLanes(n int) (first, again lane) {
	return lane{turns: semaphore.NewWeighted(int64(n))}, lane{semaphore.NewWeighted(int64(max(1, n/4))), retryPause}
}

// run removes a machine in one of the lane's turns and with a deadline of its
// own.
func (l lane) run(ctx context.Context, limit time.Duration, remove func(context.Context) error) error {
	if err := l.turns.Acquire(ctx, 1); err != nil {
		return err
	}
	free := sync.OnceFunc(func() { l.turns.Release(1) })
	slow := time.AfterFunc(slowRemoval, free)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := remove(ctx)
	slow.Stop()
	if err != nil && l.pause > 0 {
		time.AfterFunc(l.pause, free)
	} else {
		free()
	}
	return err
}

// remove begins to remove the machine of a sandbox that has ended, unless that
// is under way. Besides trim it is the only function that destroys machines.
func (m *Manager) remove(sb Sandbox) { m.removeFor(m.ctx, sb) }

// removeFor is remove in the trace of asker, whose end is not that of the removal.
func (m *Manager) removeFor(asker context.Context, sb Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.removing[sb.ID] != nil || m.ctx.Err() != nil {
		return
	}
	r := newRemover()
	m.removing[sb.ID] = r
	mk := m.makers[sb.ID]
	m.tasks.Go(func() {
		m.settle(mk)
		m.untilRemoved(span.Join(m.ctx, asker), sb, r.again)
		m.removed(sb.ID, r)
	})
}

// remover is who removes a machine.
type remover struct {
	// again takes, while it waits for its next try, what is to be closed when one
	// that begins now has failed.
	again   chan chan struct{}
	done    chan struct{} // closed when nobody tries any more
	problem string        // before that, of a second machine that is still there
}

func newRemover() *remover {
	return &remover{again: make(chan chan struct{}), done: make(chan struct{})}
}

// removed notes that nobody is removing a machine any more.
func (m *Manager) removed(key string, r *remover) {
	m.mu.Lock()
	delete(m.removing, key)
	m.mu.Unlock()
	close(r.done)
}

// hurry waits until a removal is over or, however far its next try was, has failed
// once more, and returns what is in its way.
func (m *Manager) hurry(ctx context.Context, key string) string {
	m.mu.Lock()
	r := m.removing[key]
	m.mu.Unlock()
	return m.hurryOn(ctx, key, r)
}

// hurryOn is hurry of a removal that was under way, and may be over; nil is none.
func (m *Manager) hurryOn(ctx context.Context, key string, r *remover) string {
	if r == nil {
		return ""
	}
	failed := make(chan struct{})
	select {
	case r.again <- failed:
		select {
		case <-failed:
		case <-r.done:
		case <-ctx.Done():
		}
	case <-r.done:
	case <-ctx.Done():
	}
	select {
	case <-r.done:
		return cmp.Or(r.problem, m.problem(key))
	default:
	}
	if ctx.Err() != nil {
		return m.obstacle(key)
	}
	return m.problem(key)
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

// untilRemoved tries to remove a machine, ever more rarely, and when it is asked
// to, until it is gone.
// What went before a restart is forgotten: the first try is due at once then.
func (m *Manager) untilRemoved(ctx context.Context, sb Sandbox, asked <-chan chan struct{}) {
	backoff := newBackoff()
	var waiting chan struct{} // of who has asked for the try
	for again := false; ; again = true {
		err := m.tryRemove(ctx, sb, again)
		switch {
		case err == nil:
			m.freed(sb.ID)
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, errAlive):
			m.Log.Error("refused to remove a machine", "id", sb.ID, "err", err)
			return
		case errors.Is(err, provisioner.ErrNotOurs):
			m.failed(sb, err, time.Time{})
			return // if it is ours after all, the reconciler sees it and comes back
		}
		wait, _ := backoff.Next()
		m.failed(sb, err, m.now().Add(wait))
		if waiting != nil {
			close(waiting)
			waiting = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case waiting = <-asked:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tryRemove destroys the machine once and records that it is gone.
func (m *Manager) tryRemove(ctx context.Context, sb Sandbox, again bool) error {
	p, slots, err := m.backend(sb)
	if err != nil {
		return err
	}
	lane := slots.remove
	if again {
		lane = slots.retry
	}
	var cur Sandbox
	err = lane.run(ctx, m.DestroyTimeout, func(ctx context.Context) (err error) {
		var unlock func()
		if cur, unlock, err = m.condemn(ctx, sb); err != nil { // in its turn, not before the wait for it
			return err
		}
		defer unlock()
		if cur.State.Live() {
			m.detach(cur)
		}
		if cur.Handle != "" {
			sb.Handle = cur.Handle
		}
		return m.destroy(ctx, p, sb, cur)
	})
	if err != nil {
		return err
	}
	if cur.State.Live() { // past its end, and the store could not be written then
		if _, err := m.move(ctx, sb.ID, Timeout, Change{Reason: reasonTTL}); err != nil {
			return err
		}
	}
	if cur.ID == "" {
		return nil
	}
	if _, err := m.move(ctx, sb.ID, Destroyed, Change{}); !errors.Is(err, ErrConflict) { // else it is already
		return err
	}
	return nil
}

// destroy has the backend destroy the machine of sb, whose record is cur, and
// tells how it went.
func (m *Manager) destroy(ctx context.Context, p provisioner.Provisioner, sb, cur Sandbox) error {
	start := m.now()
	ctx, end := span.Start(ctx, "remove", "agentlab.backend", sb.Backend)
	err := p.Destroy(ctx, sb.Ref())
	if errors.Is(err, provisioner.ErrUnavailable) && sb.Handle == "" && !cur.Created.Before(m.started) {
		err = nil // its machine would be on record since before it was made
	}
	end(ofMachine(err))
	m.Watch.Destroyed(sb.Backend, ofMachine(err), m.now().Sub(start))
	return err
}

// condemn returns the record of a sandbox whose machine may be destroyed now,
// none if it is an orphan past its end. One that is live but past its end can't
// be given another before unlock. Errors: errAlive.
func (m *Manager) condemn(ctx context.Context, sb Sandbox) (cur Sandbox, unlock func(), err error) {
	unlock = func() {}
	cur, err = m.Store.Sandbox(ctx, sb.ID)
	if err == nil && cur.State.Live() {
		if unlock, err = m.extend.Lock(ctx, sb.ID); err != nil {
			return Sandbox{}, nil, err
		}
		cur, err = m.Store.Sandbox(ctx, sb.ID)
	}
	judged := cur
	if errors.Is(err, ErrNoRecord) {
		judged, err = sb, nil // as its papers have it
	}
	if err == nil && !judged.over(m.now()) {
		err = fmt.Errorf("%w: %s is %s until %v", errAlive, sb.ID, judged.State, judged.End)
	}
	if err != nil {
		unlock()
	}
	return cur, unlock, err
}

// trim begins to remove a machine that a living sandbox has besides its own,
// unless that is under way, and returns whoever does; nil if nobody can. If it fails,
// the next look comes back to it.
func (m *Manager) trim(backend string, spare provisioner.Ref) *remover {
	t, ok := provisioner.As[provisioner.Trimmer](m.Backends[backend])
	key := trimming(spare)
	m.mu.Lock()
	defer m.mu.Unlock()
	if under := m.removing[key]; !ok || under != nil || m.ctx.Err() != nil {
		return under
	}
	r := newRemover()
	m.removing[key] = r
	m.tasks.Go(func() {
		err := m.slots[backend].remove.run(m.ctx, m.DestroyTimeout, func(ctx context.Context) error { return t.Trim(ctx, spare) })
		m.Log.Warn("sandbox had a second machine", "id", spare.Sandbox, "handle", spare.Handle, "err", err)
		if err != nil {
			_, r.problem = obstacle(err)
		}
		m.removed(key, r)
	})
	return r
}

// trimming is the key by which the removal of a second machine is known.
func trimming(spare provisioner.Ref) string { return spare.Sandbox + " " + spare.Handle }
