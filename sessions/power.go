package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

const (
	// stopLimit is what a backend may take to switch a machine off: its guest gets
	// a minute of it to shut down.
	stopLimit = 2 * time.Minute

	reasonStopped = "stopped by its owner"
	reasonHalted  = "its machine was switched off, but not by AgentLab"
	reasonWoken   = "its machine was switched on, but not by AgentLab"
)

// powering is the switching on or off of one machine.
type powering struct {
	state  State // that called for it
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// Stop switches the machine of a sandbox off and waits up to wait until it is, which
// goes on when ctx or the wait ends. What is on its disk stays until its end, which
// comes as if it ran; it counts against the quota. One that is STOPPED already is no
// error.
//
// Errors: Conflict if it is being made or started, or its backend can't do it.
func (m *Manager) Stop(ctx context.Context, id string, wait time.Duration) (Sandbox, error) {
	m.init()
	sb, err := m.ownLive(ctx, id)
	if err == nil {
		_, err = m.stopper(ctx, sb)
	}
	if err != nil || sb.State == Stopped {
		return sb, err
	}
	if sb.State.coming() {
		return Sandbox{}, Errorf(Conflict, "sandbox %s is %s; stop it when it is READY, which list_sandboxes waits for", id, sb.State)
	}
	if sb.State != Stopping {
		if sb, err = m.move(ctx, id, Stopping, Change{By: sb.Owner, Owner: sb.Owner, Reason: reasonStopped}); err != nil {
			return Sandbox{}, internal(id, err)
		}
		m.lines.end(id, atRest(sb))
	}
	if err := m.awaitPower(ctx, sb, wait); err != nil {
		return Sandbox{}, m.notYet(ctx, sb, err)
	}
	return m.Get(ctx, id, 0)
}

// Start switches the machine of a sandbox on that is STOPPED, or lets one go on
// that is SUSPENDED, and waits up to wait until it is READY. The starting goes on
// when ctx or the wait ends. One that can be used already is no error; one that
// can't be started is STOPPED again.
//
// Errors: Conflict if it is being made or stopped, or its backend can't do it.
func (m *Manager) Start(ctx context.Context, id string, wait time.Duration) (Sandbox, error) {
	m.init()
	sb, err := m.ownLive(ctx, id)
	switch {
	case err != nil:
		return sb, err
	case sb.State == Suspended:
		return m.Resume(ctx, id)
	case sb.State.usable():
		if _, ok := provisioner.As[provisioner.Suspender](m.Backends[sb.Backend]); ok { // somebody else may have paused it
			return m.Resume(ctx, id)
		}
		return sb, nil
	case sb.State.making(), sb.State == Stopping:
		return Sandbox{}, Errorf(Conflict, "sandbox %s is %s; start it when it is STOPPED", id, sb.State)
	}
	if _, err = m.stopper(ctx, sb); err != nil {
		return Sandbox{}, err
	}
	if sb.State != Starting {
		if sb, err = m.move(ctx, id, Starting, Change{By: sb.Owner, Owner: sb.Owner}); err != nil {
			return Sandbox{}, internal(id, err)
		}
	}
	if err := m.awaitPower(ctx, sb, wait); err != nil {
		return Sandbox{}, m.notYet(ctx, sb, err)
	}
	return m.Get(ctx, id, 0)
}

// ownLive returns a sandbox of the caller's that has not ended.
func (m *Manager) ownLive(ctx context.Context, id string) (Sandbox, error) {
	sb, err := m.own(ctx, id)
	if now := m.now(); err == nil && sb.over(now) {
		err = ended(sb, now)
	}
	return sb, err
}

// stopper returns the ability of a sandbox's backend.
func (m *Manager) stopper(ctx context.Context, sb Sandbox) (provisioner.Stopper, error) {
	if err := m.able(ctx, sb); err != nil {
		return nil, err
	}
	s, ok := provisioner.As[provisioner.Stopper](m.Backends[sb.Backend])
	if !ok {
		return nil, Errorf(Conflict, "sandbox %s can't be stopped and started: what is on the disk of a machine of backend %q ends with it; "+
			"let it run or pause it, or copy its files away and destroy it", sb.ID, sb.Backend)
	}
	return s, nil
}

// able says why a sandbox's backend can't be asked for what it is able to.
func (m *Manager) able(ctx context.Context, sb Sandbox) error {
	if _, _, err := m.backend(sb); err != nil {
		return internal(sb.ID, err)
	}
	return m.check(ctx, sb.Backend, sb.Profile)
}

// atRest is what its owner reads who wants to use a sandbox that is not on.
func atRest(sb Sandbox) *Error {
	next := "start it with start_sandbox when it is STOPPED"
	if sb.State == Stopped {
		next = "start it with start_sandbox, its files are there then"
	}
	if sb.State == Suspended {
		next = "let it go on with start_sandbox"
	}
	if sb.State == Starting {
		return Errorf(Unavailable, "sandbox %s is STARTING; try again, or wait for it with list_sandboxes", sb.ID)
	}
	return Errorf(Conflict, "sandbox %s is %s (%s); %s", sb.ID, sb.State, sb.Reason, next)
}

// notYet words why a machine is not switched on or off yet.
func (m *Manager) notYet(ctx context.Context, sb Sandbox, err error) error {
	if cur, cerr := m.own(context.WithoutCancel(ctx), sb.ID); cerr == nil && cur.over(m.now()) {
		return ended(cur, m.now())
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, errStopping):
		return err
	case sb.State == Starting:
		return &Error{Unavailable, fmt.Sprintf("sandbox %s could not be started and is STOPPED again: %s", sb.ID, obstacleOf(sb.ID, err)), err}
	}
	return &Error{Unavailable, fmt.Sprintf("sandbox %s is not stopped yet: %s. The server goes on with it, nothing more is needed", sb.ID, obstacleOf(sb.ID, err)), err}
}

// obstacleOf is what its owner may know of an error of switching a machine.
func obstacleOf(id string, err error) string {
	var e *Error
	if errors.As(present(id, err), &e) && e.Msg != "" {
		return quoted(e.Msg, 300)
	}
	_, problem := obstacle(err)
	return problem
}

// awaitPower sets in motion what the state of a sandbox calls for, and waits for it
// up to a limit, whose end is no error.
func (m *Manager) awaitPower(ctx context.Context, sb Sandbox, limit time.Duration) error {
	pw := m.power(sb, m.carryOut)
	if pw == nil {
		return errStopping
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-pw.done:
		return pw.err
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// power begins what the state of a sandbox calls for, unless that is under way,
// and returns whoever does it; nil if the Manager is stopping.
func (m *Manager) power(sb Sandbox, do func(context.Context, string) error) *powering {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.powering[sb.ID]
	if before != nil && before.state == sb.State {
		return before
	}
	if m.ctx.Err() != nil {
		return nil
	}
	if before != nil && before.state == Stopped { // only to look whether it answers
		before.cancel()
	}
	ctx, cancel := context.WithCancel(m.ctx)
	pw := &powering{state: sb.State, cancel: cancel, done: make(chan struct{})}
	m.powering[sb.ID] = pw
	m.tasks.Go(func() {
		defer cancel()
		if before != nil { // which the state has left behind
			<-before.done
		}
		pw.err = do(ctx, sb.ID)
		m.mu.Lock()
		if m.powering[sb.ID] == pw {
			delete(m.powering, sb.ID)
		}
		m.mu.Unlock()
		close(pw.done)
	})
	return pw
}

// carryOut switches a machine on or off, as the record wants it. One that can't be
// switched on is switched off again. What fails otherwise, the reconciler comes
// back to.
func (m *Manager) carryOut(ctx context.Context, id string) error {
	var failed error
	for {
		sb, err := m.Store.Sandbox(ctx, id)
		switch {
		case err != nil:
		case sb.State == Starting:
			if err = m.switchOn(ctx, sb); err != nil && ctx.Err() == nil {
				m.Log.Error("start a sandbox", "id", id, "err", err)
				failed = err
				_, err = m.move(ctx, id, Stopping, Change{Reason: "could not be started: " + obstacleOf(sb.ID, err)})
			}
		case sb.State == Stopping:
			if err = m.switchOff(ctx, sb); err != nil && ctx.Err() == nil {
				m.Log.Error("stop a sandbox", "id", id, "err", err)
			}
		default:
			return failed
		}
		switch {
		case m.ctx.Err() != nil:
			return errStopping // the record stays as it is: the next start goes on
		case err != nil && !errors.Is(err, ErrConflict): // else it has moved on
			return errors.Join(failed, err)
		}
	}
}

// switchOff does the step from STOPPING to STOPPED. Its papers come first: a
// machine that is off is not taken for one that is half made then, whatever becomes
// of the record.
func (m *Manager) switchOff(ctx context.Context, sb Sandbox) error {
	s, err := m.stopper(ctx, sb)
	if err != nil {
		return err
	}
	if err := m.repaper(ctx, sb.ID); err != nil {
		return fmt.Errorf("write its papers: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := s.Stop(limited, sb.Ref()); err != nil {
		return err
	}
	_, err = m.move(ctx, sb.ID, Stopped, Change{})
	return err
}

// switchOn does the step from STARTING to READY, in turn with those whose machines
// are made.
func (m *Manager) switchOn(ctx context.Context, sb Sandbox) error {
	s, err := m.stopper(ctx, sb)
	if err != nil {
		return err
	}
	turn := m.slots[sb.Backend].make.Join(sb.Owner)
	defer turn.Done()
	if err := turn.Wait(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, m.MakeTimeout)
	defer cancel()
	if err := s.Start(limited, sb.Ref()); err != nil {
		return err
	}
	turn.Done() // the guest boots without us
	return m.isBack(limited, sb, "")
}

// isBack makes a sandbox READY whose machine was switched on, if it answers.
func (m *Manager) isBack(ctx context.Context, sb Sandbox, reason string) error {
	l := m.lines.pin(sb.ID)
	defer m.lines.unpin(sb.ID, l)
	if err := m.awaitGuest(ctx, sb); err != nil {
		return &Error{Unavailable, "it does not answer", err}
	}
	m.lines.use(sb.ID, l, m.now()) // it was at rest, and not idle
	if _, err := m.move(ctx, sb.ID, Ready, Change{Reason: reason}); err != nil {
		return err
	}
	if err := m.repaper(ctx, sb.ID); err != nil {
		m.Log.Warn("papers say that a sandbox may be off, which is READY", "id", sb.ID, "err", err)
	}
	return nil
}

// repaper writes on the machine what is recorded of it.
func (m *Manager) repaper(ctx context.Context, id string) error {
	unlock, err := m.extend.Lock(ctx, id) // papers and record change in step
	if err != nil {
		return err
	}
	defer unlock()
	sb, err := m.Store.Sandbox(ctx, id)
	if err != nil {
		return err
	}
	return m.relabel(ctx, sb)
}

// followPower does what plan has decided about a machine that is on or off.
func (m *Manager) followPower(ctx context.Context, a action) error {
	if a.do == doHalt {
		return m.halt(ctx, a.sb)
	}
	do := m.carryOut
	if a.do == doWake {
		do = m.wake
	}
	m.power(a.sb, do)
	return nil
}

// wake makes a STOPPED sandbox READY whose machine was seen to run, if it answers:
// what was seen may be older than its stop.
func (m *Manager) wake(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	sb, err := m.Store.Sandbox(limited, id)
	if err == nil && sb.State == Stopped {
		err = m.isBack(limited, sb, reasonWoken)
	}
	if err != nil && ctx.Err() == nil {
		m.Log.Info("a machine that was stopped seems to run, and does not answer", "id", id, "err", err)
	}
	return err
}

// halt records that a machine was switched off behind our back.
func (m *Manager) halt(ctx context.Context, was Sandbox) error {
	sb, err := m.Store.Sandbox(ctx, was.ID)
	if err != nil || sb.State != was.State { // it was switched off by its owner meanwhile
		return err
	}
	sb, err = m.move(ctx, sb.ID, Stopped, Change{Owner: was.Owner, Reason: reasonHalted})
	if err != nil {
		return err
	}
	m.lines.end(sb.ID, atRest(sb))
	m.spawn(func(ctx context.Context) {
		if err := m.repaper(ctx, sb.ID); err != nil {
			m.Log.Warn("papers do not say that a sandbox is off", "id", sb.ID, "err", err)
		}
	})
	return nil
}
