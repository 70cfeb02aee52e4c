package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// A run that ends in the middle of a making leaves it to the next one.
func TestRestartGoesOnMaking(t *testing.T) {
	for _, op := range []string{"create", "dial", "run"} {
		t.Run(op, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				l.world.hang(op, "")
				sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				l.stop()
				l.world.onStep(nil)
				l.restart()
				if got, err := l.Get(as(t, "alice"), sb.ID, time.Minute); err != nil || got.State != sessions.Ready {
					t.Errorf("Get: %+v, %v", got, err)
				}
			})
		})
	}
}

// A backend gives up two machines that it had started, and makes a third, which
// is the one that is recorded and used.
func TestAMachineIsMadeElsewhere(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.failed = []string{"vm-1", "vm-2"}
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Minute})
		want := "h-" + sb.ID
		if err != nil || sb.State != sessions.Ready || sb.Handle != want || l.recorded(t, sb.ID).Handle != want {
			t.Errorf("Create: %+v, %v; want the handle %s", sb, err, want)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{want}, l.world.dialled); diff != "" {
			t.Errorf("handles that were dialled (-want +got):\n%s", diff)
		}
	})
}

// What a backend intended is told to whoever goes on after a crash, with the
// making or with the destroying.
func TestIntentOutlivesACrash(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.intent = "vm-1"
		l.world.hang("create", "")
		made, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if sb := l.recorded(t, made.ID); sb.Handle != "vm-1" || sb.State != sessions.Provisioning {
			t.Errorf("recorded %+v", sb)
		}
		l.restart()
		synctest.Wait()
		if _, err := l.Destroy(as(t, "alice"), made.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // whoever was making it may destroy it once more
		if got := l.world.handles; len(got) < 3 || !slices.Equal(slices.Compact(got), []string{"", "vm-1"}) {
			t.Errorf("handles given to create, create and destroy: %q", got)
		}
	})
}

// Nothing is made for a sandbox that has ended, or whose intent can't be recorded.
func TestNoIntentNoMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{intent: "vm-1"}, filepath.Join(t.TempDir(), "db"))
		l.Store = &forgetful{l.Store}
		l.run()
		defer l.stop()
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second}); err == nil {
			t.Error("created")
		}
		if n := l.world.count("create"); n != 0 {
			t.Errorf("%d machines were made", n)
		}
	})
}

// forgetful can't record what is intended.
type forgetful struct{ sessions.Store }

func (*forgetful) Intend(context.Context, string, string) error { return sessions.ErrStoreUnavailable }

// What is late is given up, but not what runs: it may have been READY long since,
// and its owner in it, which the record has not been told or has lost.
func TestRestartGivesUpALateMaking(t *testing.T) {
	for running, want := range map[bool]sessions.State{false: sessions.Destroyed, true: sessions.Ready} {
		inLab(t, func(t *testing.T, l *lab) {
			l.world.hang("run", "")
			sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			l.stop()
			time.Sleep(5 * time.Minute)
			l.world.onStep(nil)
			m := l.world.machines[sb.ID]
			m.Running = running
			l.world.machines[sb.ID] = m
			l.restart()
			synctest.Wait()
			l.mustBe(t, sb.ID, want)
		})
	}
}

func TestRestartGoesOnDestroying(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.hang("destroy", "")
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err == nil {
			t.Fatal("destroyed")
		}
		l.world.onStep(nil)
		l.restart()
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// A lost file costs what had ended, and no sandbox that lives.
func TestLostStoreIsRebuiltFromMachines(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		web := l.create(t, sessions.CreateRequest{Name: "web"})
		over := l.create(t, sessions.CreateRequest{TTL: 2 * time.Minute})
		l.stop()
		l.loseStore(t, "")
		time.Sleep(2 * time.Minute)
		l.restart()
		synctest.Wait()
		web.Ready = time.Now().UTC()
		web.Cores, web.DiskMB = 2, 4096
		if diff := cmp.Diff(web, l.recorded(t, web.ID)); diff != "" {
			t.Errorf("rebuilt record (-want +got):\n%s", diff)
		}
		if _, there := l.world.machine(over.ID); there {
			t.Error("a machine without a record outlives its end")
		}
		if err := l.Use(as(t, "alice"), web.ID, 0, nothing); err != nil {
			t.Error(err)
		}
		again, existing, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web"})
		if err != nil || !existing || again.ID != web.ID {
			t.Errorf("Create by name: %+v, existing %v, %v", again, existing, err)
		}
		time.Sleep(58 * time.Minute)
		synctest.Wait()
		l.mustBe(t, web.ID, sessions.Destroyed)
	})
}

// orphan puts a machine into the world that no record knows.
func (l *lab) orphan(id, name string, end time.Time) {
	l.world.put(provisioner.Machine{
		Ref: provisioner.Ref{Sandbox: id, Handle: "h"}, Running: true,
		Papers: provisioner.Papers{Instance: "i", Sandbox: id, Owner: "alice", Name: name, Profile: "small", Created: time.Now(), End: end, MaxEnd: end},
	})
}

func TestOrphanWhoseNameIsTaken(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.create(t, sessions.CreateRequest{Name: "web"})
		l.orphan("sb-old", "web", time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		if sb := l.recorded(t, "sb-old"); sb.Name != "" || sb.Owner != "alice" {
			t.Errorf("adopted as %+v", sb)
		}
	})
}

// Another process of this installation makes a machine, such as agentlab doctor:
// it is not removed from under it, and if that process dies, at its end.
func TestOrphanOfAnotherProcess(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		end := time.Now().Add(15 * time.Minute)
		l.orphan("doctor-1", "", end)
		mach, _ := l.world.machine("doctor-1")
		mach.Papers.Owner, mach.Papers.Profile, mach.Running = "doctor", "doctor", false
		l.world.put(mach)
		time.Sleep(time.Minute)
		synctest.Wait()
		mach.Running = true
		l.world.put(mach)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := l.world.count("destroy"); n != 0 {
			t.Errorf("it was destroyed %d times", n)
		}
		time.Sleep(time.Until(end) + time.Minute)
		synctest.Wait()
		if _, there := l.world.machine("doctor-1"); there {
			t.Error("it outlives its end")
		}
	})
}

// A machine that bears another installation's papers, or papers of another
// sandbox, is never touched, not even past its end.
func TestMachineThatIsNotOurs(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.orphan("sb-theirs", "", time.Now())
		l.orphan("sb-swapped", "", time.Now())
		theirs, _ := l.world.machine("sb-theirs")
		theirs.Papers.Instance = "other"
		l.world.put(theirs)
		swapped, _ := l.world.machine("sb-swapped")
		swapped.Papers.Sandbox = "sb-theirs"
		l.world.put(swapped)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := l.world.count("destroy"); n != 0 {
			t.Errorf("%d machines destroyed", n)
		}
		for _, id := range []string{"sb-theirs", "sb-swapped"} {
			if _, err := l.db.Sandbox(t.Context(), id); !errors.Is(err, sessions.ErrNoRecord) {
				t.Errorf("%s has a record: %v", id, err)
			}
		}
	})
}

// A destroyed sandbox whose machine turns up again is destroyed again.
func TestMachineThatComesBack(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		mach, _ := l.world.machine(sb.ID)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Fatal(err)
		}
		l.world.put(mach)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if all := l.AllStuck(); len(all) != 0 {
			t.Errorf("stuck: %v", all)
		}
	})
}

// A second machine of a sandbox goes, once and later if it can't be done at
// first, and the sandbox lives on.
func TestSpareMachine(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		synctest.Wait() // for the first look
		spare, _ := l.world.machine(sb.ID)
		spare.Handle, spare.Spare = "h-spare", true
		l.world.mu.Lock()
		l.world.spare = append(l.world.spare, spare)
		l.world.mu.Unlock()
		l.world.fail("trim", provisioner.ErrUnavailable)
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries := l.world.count("trim"); tries != 2 || len(l.world.spare) != 1 {
			t.Errorf("%d tries in two periods; spare %v", tries, l.world.spare)
		}
		l.world.onStep(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries := l.world.count("trim"); tries != 3 || len(l.world.spare) != 0 {
			t.Errorf("%d tries; spare %v", tries, l.world.spare)
		}
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}

// One look is not enough to give up a sandbox whose machine is not to be seen.
func TestVanishedMachine(t *testing.T) {
	for name, vanish := range map[string]func(l *lab, id string){
		"absent": func(l *lab, id string) { l.world.drop(id) },
		"dead": func(l *lab, id string) {
			m, _ := l.world.machine(id)
			m.Running = false
			l.world.put(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				sb := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour})
				mach, _ := l.world.machine(sb.ID)
				time.Sleep(time.Second)
				for range 3 { // gone in one look, there again in the one soon after it
					vanish(l, sb.ID)
					time.Sleep(30 * time.Second)
					l.world.put(mach)
					time.Sleep(2 * time.Second)
				}
				l.mustBe(t, sb.ID, sessions.Ready)
				vanish(l, sb.ID)
				time.Sleep(33 * time.Second) // one period and the second look
				synctest.Wait()
				l.mustBe(t, sb.ID, sessions.Destroyed)
				if sb := l.recorded(t, sb.ID); !strings.HasPrefix(sb.Reason, "failed: its machine ") {
					t.Errorf("reason %q", sb.Reason)
				}
			})
		})
	}
}

// If the world can't be read, nothing is decided by it, but time goes on.
func TestUnreadableWorld(t *testing.T) {
	for name, list := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("broken") },
		"hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				sb := l.create(t, sessions.CreateRequest{TTL: time.Hour})
				l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
					if op == "list" {
						return list(ctx)
					}
					return do()
				})
				time.Sleep(time.Hour - 1)
				synctest.Wait()
				l.mustBe(t, sb.ID, sessions.Ready)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				l.mustBe(t, sb.ID, sessions.Destroyed)
			})
		})
	}
}

// A machine that is not ours by the backend's own judgement is let be.
func TestBackendRefusesToDestroy(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("destroy", provisioner.ErrNotOurs)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err == nil {
			t.Fatal("destroyed")
		}
		if got := l.recorded(t, sb.ID).State; got != sessions.Destroying {
			t.Errorf("state %s", got)
		}
		l.world.drop(sb.ID) // it is not listed: there is nothing of ours left
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// Crash at every step of a whole life, before and after the step took effect:
// what the next run finds must become no machine and no open record. The two
// nets, the record and the papers, are tried apart: with the world's list
// broken the record alone must do, with the store lost the papers alone.
func TestCrashAtEveryStep(t *testing.T) {
	const steps = 8 // create, dial, run, relabel, destroy and the lists between
	for n := range steps {
		for _, when := range []string{"before", "after"} {
			for _, net := range []string{"both", "papers"} {
				t.Run(fmt.Sprintf("%d-%s-%s", n, when, net), func(t *testing.T) {
					inLab(t, func(t *testing.T, l *lab) { crashAt(t, l, n, when == "after", net == "papers") })
				})
			}
		}
	}
}

func crashAt(t *testing.T, l *lab, n int, took, lose bool) {
	var mu sync.Mutex
	crash := make(chan struct{})
	left := n
	l.world.onStep(func(ctx context.Context, _, _ string, do func() error) error {
		mu.Lock()
		left--
		dead, now := left < 0, left == -1
		if now {
			close(crash)
		}
		mu.Unlock()
		if !dead {
			return do()
		}
		if now && took {
			_ = do()
		}
		<-ctx.Done() // nothing that a dead process does has an effect
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(as(t, "alice"))
	defer cancel()
	lived := make(chan struct{})
	go func() {
		defer close(lived)
		sb, _, err := l.Create(ctx, sessions.CreateRequest{TTL: time.Hour, Wait: time.Minute})
		if err == nil {
			_, err = l.Extend(ctx, sb.ID, 2*time.Hour)
		}
		if err == nil {
			_, _ = l.Destroy(ctx, sb.ID)
		}
	}()
	select {
	case <-crash:
	case <-lived:
	}
	cancel()
	<-lived // before the store is closed: a query in flight would close its part of it later
	l.stop()
	l.world.onStep(nil)
	if lose {
		_ = os.Remove(l.path)
	}
	l.restart()
	time.Sleep(4*time.Hour + time.Minute)
	synctest.Wait()
	open, err := l.Active(t.Context())
	if err != nil || open != 0 || len(l.world.machines) != 0 {
		t.Errorf("%d open records, machines %v, %v", open, l.world.machines, err)
	}
}

// Everything at once: create, claim, use, extend, destroy, drain, the reaper and
// the reconciler over backends that take their time. Whatever wins, each call ends
// in one of the known ways, and in the end nothing is left.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].MinTTL = time.Second
		l.Profiles[0].Pool = sessions.Pool{Size: 3, Burst: 3}
		l.ReconcileEvery = 100 * time.Millisecond
		l.world.onStep(func(_ context.Context, _, _ string, do func() error) error {
			time.Sleep(rand.N(500 * time.Millisecond))
			return do()
		})
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		time.Sleep(3 * time.Second) // the pool is full
		ctx := as(t, "alice")
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 6 {
				time.Sleep(300 * time.Millisecond)
				l.world.mu.Lock()
				l.world.recipe = fmt.Sprint("v", i)
				l.world.mu.Unlock()
			}
		})
		var claimed atomic.Int64
		try := func(what string, f func() error) {
			wg.Go(func() {
				time.Sleep(rand.N(2 * time.Second))
				var e *sessions.Error
				if err := f(); err != nil && (!errors.As(err, &e) || e.Kind == sessions.Internal) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		for i := range 60 {
			wg.Go(func() {
				time.Sleep(rand.N(time.Second))
				sb, _, err := l.Create(ctx, sessions.CreateRequest{Name: fmt.Sprintf("n%d", i%30), TTL: 2 * time.Second, Wait: rand.N(2 * time.Second)})
				if err != nil {
					return // its namesake was destroyed meanwhile
				}
				claimed.Add(int64(sb.Keys))
				for range 3 {
					try("use", func() error { return l.Use(ctx, sb.ID, time.Second, nothing) })
					try("extend", func() error { _, err := l.Extend(ctx, sb.ID, time.Second+rand.N(2*time.Second)); return err })
				}
				if i%3 != 0 {
					try("destroy", func() error { _, err := l.Destroy(ctx, sb.ID); return err })
				}
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second)
		l.again(sessions.Pool{}, nil) // which drains what there was
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n, err := l.Active(t.Context()); err != nil || n != 0 || len(l.world.machines) != 0 {
			t.Errorf("%d open records, machines %v, %v", n, l.world.machines, err)
		}
		if claimed.Load() == 0 || l.world.count("recipe") < 5 {
			t.Errorf("%d were claimed, and it was asked %d times what they are made from", claimed.Load(), l.world.count("recipe"))
		}
	})
}
