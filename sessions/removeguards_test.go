package sessions_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// A refused removal is no removal that has failed: nothing is shown as stuck, and
// the sandbox can be extended as before.
func TestRefusedRemovalLeavesNothing(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.Remove(sb)
		time.Sleep(time.Minute)
		synctest.Wait()
		if all := l.AllStuck(); len(all) != 0 {
			t.Errorf("stuck: %v", all)
		}
		if _, err := l.Extend(as(t, "alice"), sb.ID, time.Hour); err != nil {
			t.Errorf("Extend: %v", err)
		}
	})
}

// blind is a store that can't be read or can't record an end, as long as it is told so.
type blind struct {
	sessions.Store
	reads  atomic.Bool
	writes atomic.Bool
}

func (b *blind) Sandbox(ctx context.Context, id string) (sessions.Sandbox, error) {
	if b.reads.Load() {
		return sessions.Sandbox{}, sessions.ErrStoreUnavailable
	}
	return b.Store.Sandbox(ctx, id)
}

func (b *blind) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	if b.writes.Load() && to == sessions.Destroyed {
		return sessions.Sandbox{}, sessions.ErrStoreUnavailable
	}
	return b.Store.Move(ctx, id, to, ch)
}

func inBlindLab(t *testing.T, f func(t *testing.T, l *lab, b *blind)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		b := &blind{Store: l.Store}
		l.Store, l.ReconcileEvery = b, 24*time.Hour // who tries is told from who looks
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		f(t, l, b)
	})
}

// What was read of a sandbox a while ago is not enough to destroy it: a record that
// can't be read is not one that is missing.
func TestNothingIsDestroyedUnread(t *testing.T) {
	inBlindLab(t, func(t *testing.T, l *lab, b *blind) {
		sb := l.create(t, sessions.CreateRequest{})
		old := sb
		old.End = time.Now() // it was extended since
		b.reads.Store(true)
		l.Remove(old)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := l.world.count("destroy"); n != 0 {
			t.Errorf("destroyed %d times without its record", n)
		}
		b.reads.Store(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}

// A machine that is gone is recorded so as soon as that can be, and what keeps it is
// shown meanwhile.
func TestDestroyedIsRecordedLater(t *testing.T) {
	inBlindLab(t, func(t *testing.T, l *lab, b *blind) {
		sb := l.create(t, sessions.CreateRequest{})
		b.writes.Store(true)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err == nil {
			t.Error("destroyed, and no record says so")
		}
		if all := l.AllStuck(); len(all) != 1 || all[0].Class != "store" {
			t.Errorf("stuck: %+v", all)
		}
		b.writes.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if all := l.AllStuck(); len(all) != 0 {
			t.Errorf("stuck: %+v", all)
		}
	})
}

// Who uses a sandbox at its end is cancelled, though the end can't be recorded.
func TestUseEndsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		full := &fullStore{Store: l.Store}
		l.Store = full
		l.run()
		defer func() { l.stop() }()
		sb := l.used(t)
		done := make(chan error, 1)
		go func() {
			done <- l.Use(as(t, "alice"), sb.ID, 0, func(ctx context.Context, _ sessions.Sandbox, _ guest.Conn) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		synctest.Wait()
		full.set(true)
		time.Sleep(time.Until(sb.End))
		synctest.Wait()
		select {
		case err := <-done:
			if k, _ := kind(t, err); k != sessions.NotFound {
				t.Errorf("Use: %v", err)
			}
		default:
			t.Error("it is used past its end")
		}
		full.set(false)
	})
}

// The machine that is destroyed is that of the record, if it names one, and else the
// one that was seen.
func TestHandleThatIsDestroyed(t *testing.T) {
	for recorded, want := range map[string]string{"h-recorded": "h-recorded", "": "h-seen"} {
		inLab(t, func(t *testing.T, l *lab) {
			now := time.Now().UTC()
			sb := sessions.Sandbox{
				ID: "sb-1", Owner: "alice", Profile: "small", Backend: "mem", State: sessions.Destroying, Handle: recorded,
				Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour), Ended: now,
			}
			synctest.Wait() // for the first look
			if _, _, err := l.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
				t.Fatal(err)
			}
			sb.Handle = "h-seen"
			l.Remove(sb)
			synctest.Wait()
			if !slices.Equal(l.world.handles, []string{want}) {
				t.Errorf("recorded %q: destroyed %q, want %q", recorded, l.world.handles, want)
			}
		})
	}
}

// Only that a backend can't say whether there is a machine is taken for none, and
// only of a sandbox of this run: an earlier one may have made one unrecorded.
func TestMachineThatMayBeThere(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		restart bool
	}{
		"another error": {errors.New("broken"), false},
		"earlier run":   {provisioner.ErrUnavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
					switch op {
					case "create":
						<-ctx.Done()
						return ctx.Err()
					case "destroy":
						return tt.err
					}
					return do()
				})
				sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if tt.restart {
					l.restart()
					synctest.Wait()
				}
				_, _ = l.Destroy(as(t, "alice"), sb.ID) // what is recorded counts
				if got := l.recorded(t, sb.ID); got.State != sessions.Destroying || got.Handle != "" {
					t.Errorf("it is %+v", got)
				}
			})
		})
	}
}

// An orphan past its end goes, however often that fails at first, and nothing is
// stuck then.
func TestOrphanIsRemovedAtLast(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		synctest.Wait() // for the first look
		l.orphan("sb-old", "", time.Now())
		l.world.fail("destroy", errNode)
		time.Sleep(time.Minute)
		synctest.Wait()
		if all := l.AllStuck(); len(all) != 1 || all[0].ID != "sb-old" {
			t.Errorf("stuck: %+v", all)
		}
		l.world.onStep(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, there := l.world.machine("sb-old"); there || len(l.AllStuck()) != 0 {
			t.Errorf("there: %v, stuck: %+v", there, l.AllStuck())
		}
	})
}

// A sandbox of a backend that is not configured waits for that, and its owner hears of it.
func TestDestroyOnABackendThatIsGone(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{TTL: 4 * time.Hour})
		l.restartWith(nil)
		_, err := l.Destroy(as(t, "alice"), sb.ID)
		if k, _ := kind(t, err); k != sessions.Unavailable {
			t.Errorf("Destroy: %v", err)
		}
		if got := l.recorded(t, sb.ID); got.State != sessions.Destroying {
			t.Errorf("it is %s", got.State)
		}
		l.restart()
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// What is tried no more is tried when its owner asks for it, and not only when it
// is looked for.
func TestDestroyTriesAgain(t *testing.T) {
	inBlindLab(t, func(t *testing.T, l *lab, _ *blind) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("destroy", provisioner.ErrNotOurs)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err == nil {
			t.Error("destroyed")
		}
		l.world.onStep(nil)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// A second machine is removed once at a time, however long that takes, and by no
// backend that can't do it.
func TestTrimOnceAtATime(t *testing.T) {
	for _, able := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
			if !able {
				l.Backends["mem"] = struct{ provisioner.Provisioner }{l.world}
			}
			l.ReconcileEvery = 5 * time.Second
			l.run()
			defer func() { l.stop() }()
			sb := l.create(t, sessions.CreateRequest{})
			spare, _ := l.world.machine(sb.ID)
			spare.Handle, spare.Spare = "h-spare", true
			l.world.mu.Lock()
			l.world.spare = append(l.world.spare, spare)
			l.world.mu.Unlock()
			l.world.hang("trim", "")
			time.Sleep(29 * time.Second)
			synctest.Wait()
			want := 0
			if able {
				want = 1
			}
			if n := l.world.count("trim"); n != want {
				t.Errorf("able %v: %d tries at once, want %d", able, n, want)
			}
			l.mustBe(t, sb.ID, sessions.Ready)
		})
	}
}
