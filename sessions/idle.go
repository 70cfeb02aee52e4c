package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	reasonIdle = "idle"
	// idleLooks is how often we look in one idle timeout: one ends that late at most.
	idleLooks = 20
	// idleDoubts is how often in one idle timeout a guest is asked that does not answer.
	idleDoubts = 4
	idleAsks   = 8                // guests asked at once
	askLimit   = 10 * time.Second // for one of them to answer
)

// idle ends sandboxes that nobody uses, whose profile says after what time.
//
// A sandbox is used by a call that works in it or extends it, for as long as the
// call lasts, and by a process that was started in it and runs. We see the calls;
// of processes only the guest knows, and it is asked when no call came for all
// that time, and not sooner. One that can't be asked is not idle: it is asked
// again later, and its end is another matter. The time before our start counts
// as used, since nobody has kept what was called then, and so does that before
// the clock was set forward.
func (m *Manager) idle(ctx context.Context) {
	started := m.now()
	wall, steady := started, time.Now()
	asks := make(chan struct{}, idleAsks)
	for m.awaitIdleLook(ctx, steady) {
		before, passed := wall, time.Since(steady)
		wall, steady = m.now(), time.Now()
		if wall.Sub(before) > passed+time.Second {
			started = wall
		}
		if err := m.lookForIdle(ctx, started, wall, asks); err != nil && ctx.Err() == nil {
			m.Log.Error("look for idle sandboxes", "err", err)
		}
	}
}

// awaitIdleLook waits until it is time for a look, by the monotonic clock, however
// often the profiles change, and says false when ctx ends.
func (m *Manager) awaitIdleLook(ctx context.Context, last time.Time) bool {
	for {
		set := m.profiles.Load()
		var due <-chan time.Time // never comes as long as no profile has an idle timeout
		if period := set.idlePeriod(); period > 0 {
			due = time.After(period - time.Since(last))
		}
		select {
		case <-due:
			return true
		case <-set.replaced:
		case <-ctx.Done():
			return false
		}
	}
}

// idlePeriod is how often to look; 0 is never.
func (set *profileSet) idlePeriod() time.Duration {
	var least time.Duration
	for _, p := range set.known {
		if t := p.IdleTimeout; t > 0 && (least == 0 || t < least) {
			least = t
		}
	}
	if least == 0 {
		return 0
	}
	return min(max(least/idleLooks, time.Second), time.Minute)
}

// lookForIdle asks the guests of sandboxes for which no call came for long, and
// does not wait for their answers: one that hangs delays none. started is when
// we began to see calls. All is judged by the time of this look, now.
func (m *Manager) lookForIdle(ctx context.Context, started, now time.Time, asks chan struct{}) error {
	var timed []string // not the others, of which there may be thousands
	set := m.profiles.Load()
	for name, p := range set.known {
		if p.IdleTimeout > 0 {
			timed = append(timed, name)
		}
	}
	if len(timed) == 0 {
		return nil
	}
	all, err := m.Store.List(ctx, Query{Profile: timed})
	if err != nil {
		return err
	}
	for _, sb := range all {
		p := set.known[sb.Profile]
		if !sb.State.usable() || sb.over(now) || sb.Pooled() {
			continue // what is in a pool waits for whom it is made
		}
		since := latest(started, p.idleSince, sb.Created, sb.Ready, m.lines.lastUse(sb.ID, now))
		if now.Sub(since) < p.IdleTimeout || !m.lines.ask(sb.ID) {
			continue
		}
		m.spawn(func(ctx context.Context) {
			defer m.lines.asked(sb.ID)
			select {
			case asks <- struct{}{}:
				defer func() { <-asks }()
			case <-ctx.Done():
				return
			}
			if err := m.endIfIdle(ctx, sb, since, now, p.IdleTimeout); err != nil && ctx.Err() == nil {
				m.Log.Warn("idle sandbox", "id", sb.ID, "err", err)
			}
		})
	}
	return nil
}

// endIfIdle ends a sandbox that no call has used since a time, unless a process
// has, or a call comes now.
func (m *Manager) endIfIdle(ctx context.Context, sb Sandbox, since, now time.Time, limit time.Duration) error {
	if sb.State != Ready { // else nobody has been in it
		quiet, err := m.quiet(ctx, sb, now, limit)
		if !quiet || err != nil {
			return err
		}
	}
	release, idle := m.lines.retire(sb.ID, since)
	if !idle {
		return nil
	}
	defer release()
	err := m.end(ctx, sb, Timeout, Change{Reason: reasonIdle})
	if errors.Is(err, ErrConflict) {
		return nil // it has ended otherwise
	}
	return err
}

// quiet asks the guest whether no process has run in it for that long.
func (m *Manager) quiet(ctx context.Context, sb Sandbox, now time.Time, limit time.Duration) (bool, error) {
	l := m.lines.pin(sb.ID)
	defer m.lines.unpin(sb.ID, l)
	ran, err := m.lastProcess(ctx, sb, l, now)
	if err != nil {
		m.lines.use(sb.ID, l, now.Add(limit/idleDoubts-limit)) // so that it is asked again, and not at each look
		return false, fmt.Errorf("ask what runs in it: %w", err)
	}
	if now.Sub(ran) < limit {
		m.lines.use(sb.ID, l, ran)
		return false, nil
	}
	return true, nil
}

// lastProcess asks the guest when a process ran last, by its clock but not later
// than now; zero is never.
func (m *Manager) lastProcess(ctx context.Context, sb Sandbox, l *line, now time.Time) (last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := m.lines.conn(ctx, l, askLimit, m.dial(sb))
	if err != nil {
		return last, err
	}
	list, err := conn.Processes().List(ctx)
	for _, p := range list {
		ran := p.Started.Add(p.Duration)
		if p.Running || ran.After(now) {
			ran = now
		}
		last = latest(last, ran)
	}
	return last, err
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}
