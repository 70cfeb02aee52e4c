package sessions_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Processes of a fake guest can be listed, and nothing else.
func (c *fakeConn) Processes() guest.Processes { return fakeProcesses{w: c.w, id: c.id} }

type fakeProcesses struct {
	guest.Processes
	w  *world
	id string
}

func (p fakeProcesses) List(ctx context.Context) (list []guest.Process, err error) {
	err = p.w.do(ctx, "processes", p.id, func() { list = p.w.procs[p.id] })
	return list, err
}

// runs says what the guest of a sandbox knows of its processes.
func (w *world) runs(id string, procs ...guest.Process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs = map[string][]guest.Process{id: procs}
}

const idleTimeout = 10 * time.Minute

// idleLook is how late an idle sandbox may end: the time between two looks.
const idleLook = idleTimeout / 20

// inIdleLab is inLab with a profile whose sandboxes end when they are idle.
func inIdleLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].IdleTimeout = idleTimeout
		l.run()
		defer func() { l.stop() }()
		f(t, l)
	})
}

// A clock that is set forward makes nothing idle that was used a minute ago, nor
// what is only just ready.
func TestIdleWhenTheClockIsSet(t *testing.T) {
	for _, use := range []bool{true, false} {
		onClock(t, &world{}, func(p *sessions.Profile) { p.IdleTimeout = idleTimeout }, func(t *testing.T, l *lab, set func(time.Duration)) {
			time.Sleep(2 * idleTimeout)
			sb, live := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour}), sessions.Ready
			if use {
				live = sessions.Running
				if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			set(time.Hour)
			time.Sleep(idleTimeout - 1)
			synctest.Wait()
			l.mustBe(t, sb.ID, live)
			time.Sleep(2 * idleLook)
			synctest.Wait()
			l.mustBe(t, sb.ID, sessions.Destroyed)
		})
	}
}

// used makes a sandbox that was used once.
func (l *lab) used(t *testing.T) sessions.Sandbox {
	t.Helper()
	sb := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour})
	if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
		t.Fatal(err)
	}
	return sb
}

// livesAndEnds fails unless the sandbox lives until it was idle for its time, and
// not much longer.
func (l *lab) livesAndEnds(t *testing.T, sb sessions.Sandbox, live sessions.State) {
	t.Helper()
	time.Sleep(idleTimeout - 1)
	synctest.Wait()
	l.mustBe(t, sb.ID, live)
	time.Sleep(idleLook + 1)
	synctest.Wait()
	l.mustBe(t, sb.ID, sessions.Destroyed)
	_, err := l.Get(as(t, "alice"), sb.ID, 0)
	if k, msg := kind(t, err); k != sessions.NotFound || !strings.Contains(msg, "(idle)") {
		t.Errorf("Get: %v %q", k, msg)
	}
}

func TestNobodyUsesIt(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour})
		l.livesAndEnds(t, sb, sessions.Ready)
		if n := l.world.count("processes"); n != 0 {
			t.Errorf("a guest that nobody has been in was asked %d times what runs", n)
		}
	})
}

// Calls count, for as long as they last, and the guest is asked once.
func TestCallsKeepASandbox(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		for range 3 {
			time.Sleep(idleTimeout - time.Minute)
			if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(idleTimeout - time.Minute)
		if _, err := l.Extend(as(t, "alice"), sb.ID, 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(idleTimeout - time.Minute)
		err := l.Use(as(t, "alice"), sb.ID, 0, func(context.Context, sessions.Sandbox, guest.Conn) error {
			time.Sleep(5 * idleTimeout)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := l.world.count("processes"); n != 0 {
			t.Errorf("asked %d times while calls came", n)
		}
		l.livesAndEnds(t, sb, sessions.Running)
		if n := l.world.count("processes"); n != 1 {
			t.Errorf("asked %d times when none came", n)
		}
	})
}

// So does a process of ours that runs, and the time counts from its end.
func TestAProcessKeepsASandbox(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		l.world.runs(sb.ID, guest.Process{ID: "p_1", Running: true, Started: time.Now()})
		time.Sleep(6*idleTimeout - time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Running)
		if n := l.world.count("processes"); n > 6 {
			t.Errorf("asked %d times in 6 idle timeouts", n)
		}
		l.world.runs(sb.ID, guest.Process{ID: "p_1", Started: time.Now().Add(-time.Hour), Duration: time.Hour})
		l.livesAndEnds(t, sb, sessions.Running)
	})
}

// Who can't be asked is not idle for that, and not asked at each look; when it
// answers again, it is. One that hangs delays no other.
func TestAGuestThatCannotBeAsked(t *testing.T) {
	for name, deaf := range map[string]func(ctx context.Context) error{
		"error": func(context.Context) error { return guest.ErrUnreachable },
		"hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			inIdleLab(t, func(t *testing.T, l *lab) {
				sb := l.used(t)
				var fine []sessions.Sandbox
				for range 20 {
					fine = append(fine, l.used(t))
				}
				l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
					if op == "processes" && id == sb.ID {
						return deaf(ctx)
					}
					return do()
				})
				time.Sleep(idleTimeout + idleLook)
				synctest.Wait()
				for _, sb := range fine {
					l.mustBe(t, sb.ID, sessions.Destroyed)
				}
				before := l.world.count("processes")
				time.Sleep(10 * idleTimeout)
				synctest.Wait()
				l.mustBe(t, sb.ID, sessions.Running)
				if n := l.world.count("processes") - before; n < 20 || n > 40 {
					t.Errorf("asked %d times in 10 idle timeouts", n)
				}
				l.world.onStep(nil)
				time.Sleep(idleTimeout/4 + 2*idleLook)
				synctest.Wait()
				l.mustBe(t, sb.ID, sessions.Destroyed)
			})
		})
	}
}

// What was called before a restart nobody knows.
func TestIdleTimeCountsFromTheStart(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		time.Sleep(idleTimeout - 1)
		l.stop()
		*l = *newLab(t, l.world, l.path)
		l.Profiles[0].IdleTimeout = idleTimeout
		l.run()
		l.livesAndEnds(t, sb, sessions.Running)
	})
}

// A call that begins while a sandbox is being ended for nobody's use waits for
// that, and hears of it, whichever comes first: it is never cut off in the middle.
func TestCallWhileAnIdleSandboxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].IdleTimeout = idleTimeout
		slow := &slowEnd{Store: l.Store}
		l.Store = slow
		l.run()
		defer l.stop()
		sb := l.used(t)
		time.Sleep(idleTimeout + idleLook + time.Second) // the end is being written
		for what, call := range map[string]func() error{
			"use": func() error {
				return l.Use(as(t, "alice"), sb.ID, 0, func(context.Context, sessions.Sandbox, guest.Conn) error {
					t.Error("used while it ends")
					return nil
				})
			},
			"extend": func() error { _, err := l.Extend(as(t, "alice"), sb.ID, time.Hour); return err },
		} {
			if k, msg := kind(t, call()); k != sessions.NotFound || !strings.Contains(msg, "(idle)") {
				t.Errorf("%s: %v %q", what, k, msg)
			}
		}
		if n := slow.ends; n != 1 {
			t.Errorf("ended %d times", n)
		}
	})
}

// slowEnd is a store in which ending a sandbox takes a while.
type slowEnd struct {
	sessions.Store
	ends int
}

func (s *slowEnd) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	if to == sessions.Timeout {
		s.ends++
		time.Sleep(idleLook / 2)
	}
	return s.Store.Move(ctx, id, to, ch)
}

// Without an idle timeout nothing ends for want of use, and nobody is asked.
func TestNoIdleTimeout(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		time.Sleep(4*time.Hour - time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Running)
		if n := l.world.count("processes"); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
}
