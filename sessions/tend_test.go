package sessions_test

import (
	"bytes"
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
	"github.com/agentlab-mcp/agentlab/store"
)

// A member that nobody wants is replaced before it goes, so that the pool is full
// at any time, with never more than one too many, and none gets older than it may.
func TestMembersAreReplaced(t *testing.T) {
	inPool(t, sessions.Pool{Size: 3, MaxAge: 10 * time.Minute}, func(t *testing.T, l *lab) {
		most, seen := 0, map[string]bool{}
		for range 60 * 60 / 5 { // an hour
			time.Sleep(5 * time.Second)
			synctest.Wait()
			ready := l.members(t, sessions.Ready)
			most = max(most, len(l.members(t, "")))
			if len(ready) < 3 {
				t.Fatalf("%d members are READY at %v", len(ready), time.Now())
			}
			for _, sb := range ready {
				seen[sb.ID] = true
				if age := time.Since(sb.Created); age > 10*time.Minute {
					t.Fatalf("%s is %v old", sb.ID, age)
				}
			}
		}
		if most > 4 {
			t.Errorf("there were %d members, want 4 at most", most)
		}
		if len(seen) < 3*6 || len(seen) > 3*9 {
			t.Errorf("%d members in an hour, want one each 8 min in each place", len(seen))
		}
	})
}

// However many are missing, no more are made at once than burst says, and however
// often the pool looks, there is never more than one too many.
func TestPoolIsFilledInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		w := &world{recipe: "v1", step: func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" {
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(10 * time.Second)
				now.Add(-1)
			}
			return do()
		}}
		l := newLab(t, w, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].Pool = sessions.Pool{Size: 6, Burst: 2}
		l.run()
		defer l.stop()
		time.Sleep(31 * time.Second)
		if n := len(l.members(t, sessions.Ready)); n != 6 || most.Load() != 2 {
			t.Errorf("after three turns there are %d, and %d were made at once", n, most.Load())
		}
	})
}

// What is being removed still takes room: its machine is there.
func TestPoolCountsWhatIsNotRemoved(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2, MaxAge: time.Minute}, func(t *testing.T, l *lab) {
		l.world.hang("destroy", "")
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, "")); n != 3 {
			t.Errorf("%d members have machines, want 3", n)
		}
		l.world.onStep(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n < 2 {
			t.Errorf("%d members when they can be removed again", n)
		}
	})
}

// Those who wait for a machine come before those who might want one.
func TestPoolWaitsForTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *lab
		var order []string
		w := &world{recipe: "v1"}
		l = newLab(t, w, filepath.Join(t.TempDir(), "db"))
		w.step = func(ctx context.Context, op, id string, do func() error) error {
			if op == "create" {
				if sb, err := l.db.Sandbox(ctx, id); err == nil {
					order = append(order, sb.Owner) // one at a time
				}
				time.Sleep(10 * time.Second)
			}
			return do()
		}
		l.Parallel = map[string]int{"mem": 1}
		l.Profiles[0].Pool = sessions.Pool{Size: 2, Burst: 2}
		l.run()
		defer l.stop()
		synctest.Wait()
		for range 3 {
			if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := fmt.Sprint(order), "[pool:small alice alice alice pool:small]"; got != want {
			t.Errorf("made for %s, want %s", got, want)
		}
	})
}

// What no longer is as it would be made is drained, and made anew.
func TestDrain(t *testing.T) {
	full := sessions.Pool{Size: 2, Burst: 2}
	for name, tt := range map[string]struct {
		change func(l *lab)
		pool   sessions.Pool
		keep   int // of the two that were there
		total  int
	}{
		"nothing":   {func(*lab) {}, full, 2, 2},
		"template":  {func(l *lab) { l.world.recipe = "v2" }, full, 0, 2},
		"profile":   {func(l *lab) { l.Profiles[0].MemoryMB = 200 }, full, 0, 2},
		"root":      {func(l *lab) { l.Profiles[0].Root = "/other" }, full, 0, 2},
		"user":      {func(l *lab) { l.Profiles[0].User = "dev" }, full, 0, 2},
		"processes": {func(l *lab) { l.Profiles[0].MaxProcs = 99 }, full, 0, 2},
		"words":     {func(l *lab) { l.Profiles[0].Description, l.Profiles[0].TTL = "other", 2*time.Hour }, full, 2, 2},
		"smaller":   {func(*lab) {}, sessions.Pool{Size: 1}, 1, 1},
		"none":      {func(*lab) {}, sessions.Pool{}, 0, 0},
		"gone":      {func(l *lab) { l.Profiles[0].Name = "big" }, full, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, full, func(t *testing.T, l *lab) {
				before := l.members(t, "")
				l.again(tt.pool, func() { tt.change(l) })
				kept := 0
				for _, sb := range before {
					if l.recorded(t, sb.ID).State == sessions.Ready {
						kept++
					} else {
						l.mustBe(t, sb.ID, sessions.Destroyed)
					}
				}
				all, err := l.db.List(t.Context(), sessions.Query{Ending: true})
				if err != nil || kept != tt.keep || len(all) != tt.total {
					t.Errorf("%d of the old ones are there, want %d; all: %+v, %v, want %d", kept, tt.keep, all, err, tt.total)
				}
			})
		})
	}
}

// A template that changes is noticed while the daemon runs.
func TestTemplateChanges(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		old := l.members(t, "")[0]
		l.world.mu.Lock()
		l.world.recipe = "v2"
		l.world.mu.Unlock()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		l.mustBe(t, old.ID, sessions.Destroyed)
		if now := l.members(t, ""); len(now) != 1 || now[0].State != sessions.Ready {
			t.Errorf("members: %+v", now)
		}
	})
}

// The next run asks those that an earlier one has made whether they answer, and
// keeps its channels to them.
func TestRestartVerifiesMembers(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		members := l.members(t, "")
		l.stop()
		l.world.onStep(func(_ context.Context, op, id string, do func() error) error {
			if op == "run" && id == members[0].ID {
				return errors.New("no answer")
			}
			return do()
		})
		l.again(sessions.Pool{Size: 2}, nil)
		l.mustBe(t, members[0].ID, sessions.Destroyed)
		l.mustBe(t, members[1].ID, sessions.Ready)
		time.Sleep(20 * time.Minute) // longer than an idle channel is kept
		if n := l.world.conns(); n != 2 {
			t.Errorf("%d channels are open, want 2", n)
		}
	})
}

// One that is dead is removed like any, and replaced.
func TestDeadMemberIsReplaced(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		dead := l.members(t, "")[0]
		l.world.drop(dead.ID)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, dead.ID, sessions.Destroyed)
		if now := l.members(t, sessions.Ready); len(now) != 1 {
			t.Errorf("members: %+v", now)
		}
	})
}

// Of a lost store, members come back as members, and go; what was claimed comes
// back as its owner's.
func TestLostStoreWithAPool(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		web := l.create(t, sessions.CreateRequest{Name: "web"})
		synctest.Wait()
		members := l.members(t, "")
		l.stop()
		l.loseStore(t, "")
		l.again(sessions.Pool{Size: 2}, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := l.recorded(t, web.ID); got.Owner != "alice" || got.Name != "web" || got.Keys != 1 || got.State != sessions.Ready || !got.End.Equal(web.End) {
			t.Errorf("what was claimed: %+v", got)
		}
		for _, sb := range members {
			l.mustBe(t, sb.ID, sessions.Destroyed)
		}
		if n := len(l.members(t, sessions.Ready)); n != 2 {
			t.Errorf("%d members, want 2", n)
		}
	})
}

// What the papers say that are of later keys than the record goes: whoever claimed
// it after the backup was made that was restored keeps it, whatever the old record
// would have done to a member of the pool.
func TestRestoredBackupWithAPool(t *testing.T) {
	for name, tt := range map[string]struct {
		pool  sessions.Pool
		later time.Duration // until the restored backup is used
		edit  func(l *lab)
	}{
		"claim":  {sessions.Pool{Size: 1}, 0, nil},
		"expire": {sessions.Pool{Size: 1, MaxAge: 10 * time.Minute}, 20 * time.Minute, nil},
		"drain":  {sessions.Pool{Size: 1}, 0, func(l *lab) { l.world.recipe = "v2" }},
		"stray":  {sessions.Pool{}, 0, nil},
	} {
		restoreBackup := func(t *testing.T, hidden bool) {
			inPool(t, sessions.Pool{Size: 1, MaxAge: 10 * time.Minute}, func(t *testing.T, l *lab) {
				backup := filepath.Join(t.TempDir(), "backup")
				if err := store.Backup(t.Context(), l.path, backup); err != nil {
					t.Fatal(err)
				}
				web := l.create(t, sessions.CreateRequest{Name: "web"})
				l.stop()
				l.loseStore(t, backup)
				time.Sleep(tt.later)
				if tt.edit != nil {
					tt.edit(l)
				}
				l.world.onStep(func(_ context.Context, op, id string, do func() error) error {
					if op == "list" {
						time.Sleep(5 * time.Second)
					}
					if op == "dial" && l.world.hides(id) {
						return provisioner.ErrUnavailable
					}
					return do()
				})
				if hidden {
					l.world.hide(web.ID)
				}
				l.again(tt.pool, nil)
				bobs, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{Wait: time.Minute})
				if err != nil || bobs.ID == web.ID {
					t.Errorf("Create: %+v, %v", bobs, err)
				}
				time.Sleep(time.Minute)
				l.world.hide("")
				time.Sleep(time.Minute)
				synctest.Wait()
				got := l.recorded(t, web.ID)
				if got.Owner != "alice" || got.Name != "web" || got.Keys != 1 || got.State != sessions.Ready ||
					!got.End.Equal(web.End) || !got.MaxEnd.Equal(web.MaxEnd) || got.Recipe != "" {
					t.Errorf("what was claimed: %+v", got)
				}
				l.mustBe(t, web.ID, sessions.Ready)
			})
		}
		t.Run(name, func(t *testing.T) { restoreBackup(t, false) })
		t.Run(name+"-unread", func(t *testing.T) { restoreBackup(t, true) })
	}
}

// Members that the store has lost count before any is made.
func TestLostStoreMakesNoSecondPool(t *testing.T) {
	inPool(t, sessions.Pool{Size: 3, Burst: 3}, func(t *testing.T, l *lab) {
		l.stop()
		l.loseStore(t, "")
		most := 0
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "list" {
				time.Sleep(5 * time.Second)
			}
			err := do()
			l.world.mu.Lock()
			defer l.world.mu.Unlock()
			most = max(most, len(l.world.machines))
			return err
		})
		l.again(sessions.Pool{Size: 3, Burst: 3}, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 3 || most > 4 {
			t.Errorf("%d members, want 3; there were %d, want 4 at most", n, most)
		}
	})
}

// A pool of a backend that can't have one is an error that names the key.
func TestBackendWithoutPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Log = slog.New(slog.NewTextHandler(&said, nil))
		l.Backends = map[string]provisioner.Provisioner{"mem": struct{ provisioner.Provisioner }{l.world}}
		l.Profiles[0].Pool.Size = 3
		l.run()
		synctest.Wait()
		l.create(t, sessions.CreateRequest{})
		l.stop()
		if text := said.String(); !strings.Contains(text, "profile small has pool.size 3, allowed: 0, since backend \\\"mem\\\"") {
			t.Errorf("it said:\n%s", text)
		}
	})
}

// A machine that is there waits for no slot to be made in, and the next one is made
// as soon as there is one again, however the making before it ends.
func TestPoolOfABusyBackend(t *testing.T) {
	for _, failed := range []error{nil, provisioner.ErrExhausted} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{recipe: "v1"}
			l := newLab(t, w, filepath.Join(t.TempDir(), "db"))
			l.Parallel, l.ReconcileEvery = map[string]int{"mem": 1}, time.Hour
			l.Profiles[0].Pool = sessions.Pool{Size: 1}
			l.run()
			defer l.stop()
			synctest.Wait()
			w.onStep(func(_ context.Context, op, id string, do func() error) error {
				if sb, err := l.db.Sandbox(t.Context(), id); op == "create" && err == nil && sb.Owner == "bob" {
					time.Sleep(time.Minute)
					return errors.Join(failed, do())
				}
				return do()
			})
			if _, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{Cores: 1}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			if sb := l.create(t, sessions.CreateRequest{}); sb.Keys != 1 || time.Since(began) != 0 {
				t.Errorf("got %+v after %v, want the pool's at once", sb, time.Since(began))
			}
			time.Sleep(time.Minute - time.Nanosecond)
			synctest.Wait()
			if n := len(l.members(t, "")); n != 0 {
				t.Errorf("%d members are made while there is no slot", n)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if n := len(l.members(t, sessions.Ready)); n != 1 {
				t.Errorf("%d members when there is one", n)
			}
		})
	}
}
