package sessions_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// What happens to a machine behind our back is seen, and said.
func TestSwitchedBehindOurBack(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if err := l.Use(ctx, sb.ID, 0, nothing); err != nil {
			t.Fatal(err)
		}
		l.world.behind(sb.ID, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if _, msg := kind(t, l.Use(ctx, sb.ID, 0, nothing)); !strings.Contains(msg, "is STOPPED (its machine was switched off, but not by AgentLab)") {
			t.Errorf("Use: %s", msg)
		}
		if mach, _ := l.world.machine(sb.ID); !mach.Papers.Stopped || l.world.conns() != 0 {
			t.Errorf("its papers say that it is off: %v; %d channels to it are open", mach.Papers.Stopped, l.world.conns())
		}
		l.world.behind(sb.ID, true)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Ready, true)
		if events := l.events(t, sb.ID); !strings.Contains(events, "state  STOPPED its machine was switched off, but not by AgentLab 0s\nstate  READY its machine was switched on, but not by AgentLab 0s\n") {
			t.Errorf("events:\n%s", events)
		}
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		l.world.drop(sb.ID)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// What seems switched off by others may just have been by its owner.
func TestHaltAfterAStop(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		sb := l.create(t, sessions.CreateRequest{})
		looks := 0
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			if op == "list" {
				l.world.behind(sb.ID, false)
				if looks++; looks == 2 {
					if _, err := l.db.Move(ctx, sb.ID, sessions.Stopping, sessions.Change{At: time.Now(), Reason: "its owner"}); err != nil {
						t.Error(err)
					}
				}
			}
			return do()
		})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if got := l.recorded(t, sb.ID); got.Reason != "its owner" || looks < 2 {
			t.Errorf("after %d looks the reason is %q", looks, got.Reason)
		}
	})
}

// A look that is older than a stop, or than a start, changes nothing: a machine
// that seems to run must answer, and one that seems off be seen so twice.
func TestOldLooksAtPower(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			switch op {
			case "list": // as if it ran
				l.world.behind(sb.ID, true)
				defer l.world.behind(sb.ID, false)
			case "dial":
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		l.world.onStep(nil)
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if l.world.count("dial") < 2 || l.world.count("start") > 0 {
			t.Errorf("%d dials, %d starts", l.world.count("dial"), l.world.count("start"))
		}
		if _, err := l.Start(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		looks := 0
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if looks++; op == "list" && looks%2 == 0 { // as if it were off, now and then
				l.world.behind(sb.ID, false)
				defer l.world.behind(sb.ID, true)
			}
			return do()
		})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		l.world.onStep(nil)
		l.wantPower(t, sb.ID, sessions.Ready, true)
	})
}

// That a machine was moved is recorded once, also if it could not be read in
// between.
func TestMovedBehindOurBack(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		sb := l.create(t, sessions.CreateRequest{})
		at := func(place string) {
			l.world.mu.Lock()
			defer l.world.mu.Unlock()
			m := l.world.machines[sb.ID]
			m.Place = place
			l.world.machines[sb.ID] = m
		}
		look := func() {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		at("pve1")
		look()
		at("pve2")
		look()
		l.world.hide(sb.ID)
		look()
		at("pve3")
		look()
		l.world.hide("")
		look()
		l.world.mu.Lock() // another machine, which we have made elsewhere
		m := l.world.machines[sb.ID]
		m.Handle, m.Place = "another", "pve4"
		l.world.machines[sb.ID] = m
		l.world.mu.Unlock()
		look()
		events := l.events(t, sb.ID)
		if !strings.HasSuffix(events, "migrate   from pve1 to pve2, but not by AgentLab 0s\nmigrate   from pve2 to pve3, but not by AgentLab 0s\n") || strings.Count(events, "migrate") != 2 {
			t.Errorf("events:\n%s", events)
		}
	})
}
