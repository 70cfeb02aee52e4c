package sessions_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// failForPools makes what is asked for pools fail, and hang if it is asked without
// end, and returns how often that was.
func (l *lab) failForPools(what string) *atomic.Int64 {
	asked := new(atomic.Int64)
	l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
		if sb, _ := l.db.Sandbox(ctx, id); op != what || op == "create" && !sb.Pooled() {
			return do()
		}
		if asked.Add(1) > 100 {
			<-ctx.Done()
		}
		return provisioner.ErrExhausted
	})
	return asked
}

// A backend that fails is asked ever less often, whatever else is made there
// meanwhile, and a pool fills when it works again.
func TestPoolBacksOff(t *testing.T) {
	for _, op := range []string{"create", "recipe"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
				asked := l.failForPools(op)
				l.Profiles[0].Pool = sessions.Pool{Size: 2}
				l.run()
				defer func() { l.stop() }()
				time.Sleep(2 * time.Hour)
				if n := asked.Load(); n < 20 || n > 100 { // without a rest it would be thousands
					t.Errorf("asked %d times in two hours", n)
				}
				if n := len(l.members(t, "")); n != 0 {
					t.Errorf("%d failed ones are in the way", n)
				}
				before := asked.Load()
				for range 20 { // each wakes the pool
					l.create(t, sessions.CreateRequest{Cores: 1})
					time.Sleep(time.Second)
				}
				if n := asked.Load() - before; n > 2 {
					t.Errorf("asked %d times in 20 s of a rest of minutes", n)
				}
				l.world.onStep(nil)
				time.Sleep(6 * time.Minute)
				if n := len(l.members(t, sessions.Ready)); n != 2 {
					t.Errorf("%d members when it works again", n)
				}
			})
		})
	}
}

// A rest is as long as it was meant to be, also if nothing else has the pool looked
// at when it is over.
func TestPoolRestsNoLonger(t *testing.T) {
	for _, what := range []string{"create", "recipe"} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
			l.ReconcileEvery = 2 * time.Hour
			l.Profiles[0].Pool = sessions.Pool{Size: 1}
			l.failForPools(what)
			l.run()
			defer func() { l.stop() }()
			synctest.Wait()
			l.world.onStep(nil)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if n := len(l.members(t, sessions.Ready)); n != 1 {
				t.Errorf("%s has failed once; %d members 2 s later", what, n)
			}
		})
	}
}

// A pool that has made one again after many failures asks soon after the next one.
func TestPoolForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].Pool = sessions.Pool{Size: 1}
		l.failForPools("create")
		l.run()
		defer func() { l.stop() }()
		time.Sleep(30 * time.Minute)
		l.world.onStep(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 1 {
			t.Fatalf("%d members", n)
		}
		failed := false
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" && !failed {
				failed = true
				return provisioner.ErrExhausted
			}
			return do()
		})
		if sb := l.create(t, sessions.CreateRequest{}); sb.Keys != 1 {
			t.Errorf("got %+v", sb)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 1 || !failed {
			t.Errorf("%d members a minute after a failure", n)
		}
	})
}

// What has come to be a member since the pool was looked at counts, too. That there
// is no room for one more is no failure: it is made as soon as there is.
func TestPoolGrowsBehindItsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.ReconcileEvery = time.Second / 2
		l.Profiles[0].Pool = sessions.Pool{Size: 1}
		var once sync.Once
		l.Store = &spied{Store: l.Store, listed: func(q sessions.Query) {
			if q.Owner == sessions.PoolOwner("small") {
				once.Do(func() {
					for i := range 2 {
						sb := sessions.Sandbox{
							ID: fmt.Sprintf("sb-%d", i), Owner: q.Owner, Profile: "small", Backend: "mem", State: sessions.Failed,
							Created: time.Now(), End: time.Now().Add(time.Hour), MaxEnd: time.Now().Add(time.Hour), Ended: time.Now(),
						}
						if _, _, err := l.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: time.Now()}); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}}
		l.run()
		defer func() { l.stop() }()
		time.Sleep(time.Second/2 - time.Nanosecond)
		synctest.Wait()
		if n := len(l.members(t, "")); n != 2 {
			t.Errorf("%d members have machines, want 2", n)
		}
		time.Sleep(time.Nanosecond) // the reconciler sees that they have no machine
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 1 {
			t.Errorf("%d members are READY as soon as there is room, want 1", n)
		}
	})
}

// Members on a backend that the profile has left go, though the other one does not
// say what it would make.
func TestProfileMovesToAnotherBackend(t *testing.T) {
	p := sessions.Pool{Size: 1}
	inPool(t, p, func(t *testing.T, l *lab) {
		old := l.members(t, "")[0]
		l.again(p, func() {
			down := &world{}
			down.fail("recipe", provisioner.ErrUnavailable)
			l.Backends["down"] = down
			l.Profiles[0].Backend = "down"
		})
		l.mustBe(t, old.ID, sessions.Destroyed)
	})
}

// What was claimed is its owner's alone: the pool holds no channel to it that would
// make it look used.
func TestClaimedSandboxIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].Pool = sessions.Pool{Size: 1}
		l.Profiles[0].IdleTimeout = idleTimeout
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		sb := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour})
		if sb.Keys != 1 {
			t.Fatalf("not from the pool: %+v", sb)
		}
		l.livesAndEnds(t, sb, sessions.Ready)
	})
}

// told keeps what a Watcher is told of makings.
type told struct {
	sessions.Watcher
	mu      sync.Mutex
	created []string
	all     []string // of the rest
}

func (w *told) Created(_, outcome string, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.created = append(w.created, outcome)
}

// A making that a stop interrupts has not ended: it is counted when it has.
func TestInterruptedMakingIsNotCounted(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.stop()
		var count told
		for _, hang := range []string{"create", "dial", ""} {
			*l = *newLab(t, l.world, l.path)
			l.Watch = &count
			l.world.hang(hang, "")
			l.run()
			synctest.Wait()
			if hang == "create" {
				if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			if hang != "" {
				l.stop()
				if n := len(count.created); n != 0 {
					t.Errorf("stopped in %s: told %q", hang, count.created)
				}
			}
		}
		if got := fmt.Sprint(count.created); got != "[ok]" {
			t.Errorf("told %s of one sandbox", got)
		}
	})
}
