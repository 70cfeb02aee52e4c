package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// lineCount counts the lines of a log that say something.
type lineCount struct {
	slog.Handler
	says string
	n    *atomic.Int64
}

func (c lineCount) Handle(_ context.Context, r slog.Record) error {
	if r.Message == c.says {
		c.n.Add(1)
	}
	return nil
}

func (c lineCount) Enabled(context.Context, slog.Level) bool { return true }

// countLines makes the log of a lab that does not run yet count lines.
func (l *lab) countLines(says string) *atomic.Int64 {
	c := lineCount{slog.DiscardHandler, says, new(atomic.Int64)}
	l.Log = slog.New(c)
	return c.n
}

// doomed records sandboxes that are to be destroyed, and puts their machines there.
func (l *lab) doomed(t *testing.T, n int) {
	t.Helper()
	now := time.Now().UTC()
	for i := range n {
		sb := sessions.Sandbox{
			ID: fmt.Sprintf("sb-%d", i), Owner: "alice", Profile: "small", Backend: "mem", State: sessions.Ready,
			Handle: fmt.Sprintf("h-%d", i), Created: now, Ready: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
		}
		if _, _, err := l.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.db.Move(t.Context(), sb.ID, sessions.Destroying, sessions.Change{At: now}); err != nil {
			t.Fatal(err)
		}
		l.world.put(provisioner.Machine{
			Ref: sb.Ref(), Running: true,
			Papers: provisioner.Papers{Instance: "i", Sandbox: sb.ID, Owner: "alice", Profile: "small", Created: now, End: sb.End, MaxEnd: sb.MaxEnd},
		})
	}
}

var errNode = fmt.Errorf("node pve2 does not answer: %w", provisioner.ErrUnavailable)

// A daemon that starts with many to remove, and a backend that is down, asks it
// once for each and then at a rate that their number does not change. What ends
// meanwhile waits for none of them, and all go when the backend is back.
func TestManyToRemoveOnABackendThatIsDown(t *testing.T) {
	const many, minutes = 1000, 10
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		lines := l.countLines("machine can't be removed")
		l.doomed(t, many)
		l.world.fail("destroy", errNode)
		l.run()
		defer l.stop()
		time.Sleep(minutes * time.Minute)
		synctest.Wait()
		if n := l.world.count("destroy"); n < many || n > many+2*60*minutes { // 2 later tries a second
			t.Errorf("%d tries in %d minutes for %d machines", n, minutes, many)
		}
		if n := lines.Load(); n != many {
			t.Errorf("%d lines in the log for %d machines", n, many)
		}
		if stuck := l.AllStuck(); len(stuck) != many || stuck[0].Class != "unavailable" || stuck[0].Backend != "mem" {
			t.Errorf("%d stuck: %+v", len(stuck), stuck[:min(1, len(stuck))])
		}
		sb := l.create(t, sessions.CreateRequest{TTL: time.Minute})
		before := l.world.count("destroy")
		l.world.onStep(func(_ context.Context, op, id string, do func() error) error {
			if op == "destroy" && id != sb.ID {
				return errNode
			}
			return do()
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if n := l.world.count("destroy") - before; n > 3*60 {
			t.Errorf("%d tries in a minute", n)
		}
		l.world.onStep(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if n, err := l.Active(t.Context()); n != 0 || err != nil || len(l.AllStuck()) != 0 {
			t.Errorf("%d sandboxes and %d stuck when the backend is back, %v", n, len(l.AllStuck()), err)
		}
	})
}

// Machines that hang give up their turns.
func TestHangingRemovalsGiveUpTheirTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		const slots = 8
		l.doomed(t, slots)
		var own atomic.Value
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			if op == "destroy" && id != own.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		l.run()
		defer l.stop()
		sb := l.create(t, sessions.CreateRequest{})
		own.Store(sb.ID)
		done := make(chan error)
		go func() {
			_, err := l.Destroy(as(t, "alice"), sb.ID)
			done <- err
		}()
		time.Sleep(6 * time.Second) // of the 30 that each of them takes
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if stuck := l.AllStuck(); len(stuck) != slots || stuck[0].Class != "no_answer" {
			t.Errorf("%d stuck: %+v", len(stuck), stuck)
		}
	})
}

// Its owner, and nobody else, hears what keeps a sandbox from being destroyed, and
// when that is tried again. The log hears of each change.
func TestStuckSandboxIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		lines := l.countLines("machine can't be removed")
		l.run()
		defer l.stop()
		sb := l.create(t, sessions.CreateRequest{Name: "web"})
		l.world.fail("destroy", errNode)
		_, err := l.Destroy(as(t, "alice"), sb.ID)
		k, msg := kind(t, err)
		if k != sessions.Unavailable || !strings.Contains(msg, "is being destroyed, but node pve2 does not answer; next try in ") {
			t.Errorf("Destroy: %v %q", k, msg)
		}
		mine, err := l.Stuck(as(t, "alice"))
		if err != nil || len(mine) != 1 || mine[0].Name != "web" || !strings.HasPrefix(mine[0].String(), "node pve2 does not answer; next try at 2000-01-01T00:0") {
			t.Errorf("alice: %v, %v", mine, err)
		}
		if theirs, err := l.Stuck(as(t, "bob")); err != nil || len(theirs) != 0 {
			t.Errorf("bob: %v, %v", theirs, err)
		}
		if _, err := l.Stuck(t.Context()); err == nil {
			t.Error("nobody is answered")
		}
		for class, err := range map[string]error{
			"failed": errors.New("secret text"), "store": sessions.ErrStoreUnavailable, "no_answer": context.DeadlineExceeded,
		} {
			l.world.fail("destroy", err)
			before := lines.Load()
			time.Sleep(20 * time.Minute)
			synctest.Wait()
			if all := l.AllStuck(); len(all) != 1 || all[0].Class != class || strings.Contains(all[0].Problem, "secret") {
				t.Errorf("%v: %+v", err, all)
			}
			if n := lines.Load() - before; n != 1 {
				t.Errorf("%v: %d lines in the log for one change", err, n)
			}
		}
		l.world.onStep(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if mine, err := l.Stuck(as(t, "alice")); err != nil || len(mine) != 0 {
			t.Errorf("gone and still stuck: %v, %v", mine, err)
		}
	})
}

// What is not ours is tried no more, until it is listed as ours, and shown.
func TestStuckForItIsNotOurs(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		mach, _ := l.world.machine(sb.ID)
		l.world.fail("destroy", provisioner.ErrNotOurs)
		_, err := l.Destroy(as(t, "alice"), sb.ID)
		if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "the operator must look at it") || strings.Contains(msg, "next try") {
			t.Errorf("Destroy: %v %q", k, msg)
		}
		if n := l.world.count("destroy"); n > 3 { // its own, and those of the looks at the beginning and the end
			t.Errorf("tried %d times in half a minute", n)
		}
		l.world.drop(sb.ID)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if all := l.AllStuck(); len(all) != 0 {
			t.Errorf("stuck: %v", all)
		}
		l.world.onStep(nil)
		l.world.put(mach)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// An orphan past its end is removed, and not one that is not.
func TestRemoveOfALiveOrphanIsRefused(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		synctest.Wait() // for the first look, which would adopt it
		l.orphan("sb-old", "", time.Now().Add(10*time.Minute))
		l.Remove(sessions.Sandbox{ID: "sb-old", Backend: "mem", State: sessions.Ready, End: time.Now().Add(10 * time.Minute)})
		synctest.Wait()
		if n := l.world.count("destroy"); n != 0 {
			t.Errorf("destroyed %d times before its end", n)
		}
	})
}

// Whoever gives up while the papers follow the record leaves them in step.
func TestExtendGivenUpLeavesPapersInStep(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		ctx, cancel := context.WithCancel(as(t, "alice"))
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "relabel" {
				cancel()
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			return do()
		})
		_, _ = l.Extend(ctx, sb.ID, 10*time.Minute) // what it leaves counts
		mach, _ := l.world.machine(sb.ID)
		if rec := l.recorded(t, sb.ID); !rec.End.Equal(mach.Papers.End) {
			t.Errorf("papers end %v, record %v", mach.Papers.End, rec.End)
		}
	})
}

// A sandbox without a machine is done with, though a backend can't say now that
// there is none: one of this run would be on record.
func TestNeverMadeWhileUnreadable(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" || op == "destroy" {
				return provisioner.ErrUnavailable
			}
			return do()
		})
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err == nil {
			t.Fatalf("created: %+v", sb)
		}
		time.Sleep(time.Minute)
		if n, err := l.Active(t.Context()); n != 0 || err != nil {
			t.Errorf("%d sandboxes, %v", n, err)
		}
	})
}
