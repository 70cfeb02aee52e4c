package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// The name of a sandbox where its id belongs must not read as one that is gone.
func TestNameIsNoID(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{Name: "web"})
		for who, next := range map[string]string{"alice": "the id of your sandbox of that name is " + sb.ID, "bob": "list_sandboxes shows yours"} {
			gone, err := l.Destroy(as(t, who), "web")
			if want := `sandbox_id is "web", but ids begin with sb-; ` + next; gone || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Destroy by name, for %s: %v, %v; want %s", who, gone, err, want)
			}
		}
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}

// What another principal reads of a sandbox must be what it reads of none.
func TestOthersSandboxReadsLikeNone(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{Name: "web"})
		bob, none := as(t, "bob"), "sb-aaaaaaaaaaaaaaaaaaaa"
		calls := map[string]func(id string) error{
			"get":    func(id string) error { _, err := l.Get(bob, id, time.Minute); return err },
			"extend": func(id string) error { _, err := l.Extend(bob, id, time.Hour); return err },
			"use":    func(id string) error { return l.Use(bob, id, time.Minute, nothing) },
			"destroy": func(id string) error {
				gone, err := l.Destroy(bob, id)
				return errors.Join(fmt.Errorf("gone %v", gone), err)
			},
		}
		check := func(when string) {
			for name, call := range calls {
				got, want := call(sb.ID), call(none)
				if got == nil || strings.ReplaceAll(got.Error(), sb.ID, none) != want.Error() {
					t.Errorf("%s: %s of another's: %v; of none: %v", when, name, got, want)
				}
			}
		}
		check("live")
		if list, err := l.List(bob); err != nil || len(list) != 0 {
			t.Errorf("bob lists %v, %v", list, err)
		}
		l.mustBe(t, sb.ID, sessions.Ready)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Fatal(err)
		}
		check("destroyed")
		for name, call := range map[string]func() error{
			"get":     func() error { _, err := l.Get(t.Context(), sb.ID, 0); return err },
			"list":    func() error { _, err := l.List(t.Context()); return err },
			"extend":  func() error { _, err := l.Extend(t.Context(), sb.ID, time.Hour); return err },
			"use":     func() error { return l.Use(t.Context(), sb.ID, 0, nothing) },
			"destroy": func() error { _, err := l.Destroy(t.Context(), sb.ID); return err },
		} {
			if err := call(); err == nil {
				t.Errorf("%s without a principal succeeds", name)
			}
		}
	})
}

func TestSandboxEndsExactlyInTime(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{TTL: time.Hour})
		soon := l.create(t, sessions.CreateRequest{TTL: 2 * time.Minute}) // wakes the reaper for a sooner end
		used := make(chan error)
		go func() {
			used <- l.Use(as(t, "alice"), soon.ID, 0, func(ctx context.Context, _ sessions.Sandbox, _ guest.Conn) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		time.Sleep(2*time.Minute - 1)
		synctest.Wait()
		l.mustBe(t, soon.ID, sessions.Running)
		time.Sleep(time.Nanosecond)
		if k, msg := kind(t, <-used); k != sessions.NotFound || !strings.Contains(msg, soon.ID+" ended just now (ttl)") {
			t.Errorf("Use of a sandbox that ends: %v %q", k, msg)
		}
		synctest.Wait()
		l.mustBe(t, soon.ID, sessions.Destroyed)
		time.Sleep(58*time.Minute - 1)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Ready)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		time.Sleep(4 * time.Minute)
		_, err := l.Get(as(t, "alice"), sb.ID, 0)
		want := "sandbox " + sb.ID + " ended 4 min ago (ttl); its files are gone; create a new one with create_sandbox"
		if k, msg := kind(t, err); k != sessions.NotFound || msg != want {
			t.Errorf("Get: %v %q, want %q", k, msg, want)
		}
	})
}

// An end that is sooner than the one the reaper sleeps for wakes it. The other
// clocks, which would notice within a minute, are kept away.
func TestReaperWakesForASoonerEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].MinTTL = time.Second
		l.ReconcileEvery = 24 * time.Hour
		l.run()
		defer l.stop()
		time.Sleep(time.Second)
		created := l.create(t, sessions.CreateRequest{TTL: 7 * time.Second})
		extended := l.create(t, sessions.CreateRequest{})
		synctest.Wait()
		time.Sleep(8 * time.Second)
		synctest.Wait()
		l.mustBe(t, created.ID, sessions.Destroyed)
		if _, err := l.Extend(as(t, "alice"), extended.ID, 7*time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		l.mustBe(t, extended.ID, sessions.Destroyed)
	})
}

// Whoever asks for it: the machine of a sandbox that lives, and is in time, is
// not removed.
func TestRemoveOfALiveSandboxIsRefused(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.Remove(sb)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}

// Past its end a sandbox is of no use, also while nobody reaps it.
func TestPastItsEndWithoutReaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.run()
		alice := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{Name: "web"})
		l.stop()
		time.Sleep(time.Hour)
		l = newLab(t, l.world, l.path)
		defer func() { l.stop() }()
		if list, err := l.List(alice); err != nil || len(list) != 0 {
			t.Errorf("List = %v, %v", list, err)
		}
		_, get := l.Get(alice, sb.ID, 0)
		_, ext := l.Extend(alice, sb.ID, time.Hour)
		use := l.Use(alice, sb.ID, 0, nothing)
		for _, err := range []error{get, ext, use} {
			if k, msg := kind(t, err); k != sessions.NotFound || !strings.Contains(msg, "ended just now (ttl)") {
				t.Errorf("%v %q", k, msg)
			}
		}
		if n := l.world.count("relabel"); n != 0 {
			t.Error("a machine past its end was given papers with a later one")
		}
		again, existing, err := l.Create(alice, sessions.CreateRequest{Name: "web"})
		if err != nil || existing || again.ID == sb.ID {
			t.Errorf("its name is not free: %+v, existing %v, %v", again, existing, err)
		}
		l.run()
		if sb, err := l.Get(alice, again.ID, time.Minute); err != nil || sb.State != sessions.Ready {
			t.Errorf("Get: %+v, %v", sb, err)
		}
	})
}

// A full disk must not keep a machine alive: its recorded end is enough.
func TestExpiryOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		full := &fullStore{Store: l.Store}
		l.Store = full
		l.run()
		defer l.stop()
		sb := l.create(t, sessions.CreateRequest{})
		full.set(true)
		began := time.Now()
		_, err := l.Destroy(as(t, "alice"), sb.ID)
		if k, _ := kind(t, err); k != sessions.Unavailable || time.Since(began) != 0 {
			t.Errorf("Destroy: %v after %v", err, time.Since(began))
		}
		if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err == nil {
			t.Error("first use was not recorded, and went on")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, there := l.world.machine(sb.ID); there {
			t.Error("the machine outlives its end")
		}
		full.set(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// A full disk and the end of a sandbox meet while it is being made: the making
// is given up without a record that says so, and all goes its way later.
func TestExpiryOfAMakingOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		full := &fullStore{Store: l.Store}
		l.Store = full
		l.run()
		defer l.stop()
		l.world.hang("create", "")
		made := make(chan error)
		go func() {
			_, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{TTL: time.Minute, Wait: time.Hour})
			made <- err
		}()
		time.Sleep(time.Second)
		full.set(true)
		if k, msg := kind(t, <-made); k != sessions.NotFound || !strings.Contains(msg, "(ttl)") {
			t.Errorf("Create: %v %q", k, msg)
		}
		list, err := l.db.List(t.Context(), sessions.Query{})
		if err != nil || len(list) != 1 {
			t.Fatalf("records: %v, %v", list, err)
		}
		full.set(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		l.mustBe(t, list[0].ID, sessions.Destroyed)
	})
}

// fullStore can read but not write.
type fullStore struct {
	sessions.Store
	mu   sync.Mutex
	full bool
}

func (s *fullStore) set(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *fullStore) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	s.mu.Lock()
	full := s.full
	s.mu.Unlock()
	if full {
		return sessions.Sandbox{}, fmt.Errorf("no space: %w", sessions.ErrStoreUnavailable)
	}
	return s.Store.Move(ctx, id, to, ch)
}

func TestExtend(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		alice := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{TTL: time.Hour})
		for _, ttl := range []time.Duration{3 * time.Hour, 10 * time.Minute, 4 * time.Hour} {
			got, err := l.Extend(alice, sb.ID, ttl)
			mach, _ := l.world.machine(sb.ID)
			if want := sb.Created.Add(ttl); err != nil || !got.End.Equal(want) || !mach.Papers.End.Equal(want) {
				t.Errorf("Extend by %v: end %v, papers %v, %v", ttl, got.End, mach.Papers.End, err)
			}
		}
		time.Sleep(time.Hour)
		_, err := l.Extend(alice, sb.ID, 3*time.Hour+time.Second)
		want := "ttl_seconds is 10801, allowed: 60 to 10800: sandbox " + sb.ID + " may live until 2000-01-01T04:00:00Z at most"
		if k, msg := kind(t, err); k != sessions.Invalid || msg != want {
			t.Errorf("past the most: %v %q, want %q", k, msg, want)
		}
		if _, err := l.Extend(alice, sb.ID, -time.Hour); err == nil {
			t.Error("a negative ttl is taken")
		}
		if _, err := l.Extend(alice, sb.ID, time.Minute); err != nil { // sooner: the reaper must hear of it
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// Wherever an extension is cut short, the papers must not name an earlier end
// than the record, and neither may lose the sandbox an end.
func TestExtendOnAFullDisk(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("relabel", fmt.Errorf("write papers: %w", syscall.ENOSPC))
		_, err := l.Extend(as(t, "alice"), sb.ID, 2*time.Hour)
		if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "the server's disk is full") {
			t.Errorf("Extend: %v %q", k, msg)
		}
	})
}

func TestExtendCutShort(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"later": 3 * time.Hour, "sooner": 10 * time.Minute} {
		for _, broken := range []string{"papers", "papers-done", "record"} {
			t.Run(name+"-"+broken, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
					end := &endlessStore{Store: l.Store, broken: broken == "record"}
					l.Store = end
					l.run()
					defer l.stop()
					sb := l.create(t, sessions.CreateRequest{})
					if broken != "record" {
						l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
							if op != "relabel" {
								return do()
							}
							if broken == "papers-done" {
								_ = do()
							}
							return errors.New("cut short")
						})
					}
					_, _ = l.Extend(as(t, "alice"), sb.ID, ttl) // fails or warns; what it leaves counts
					mach, _ := l.world.machine(sb.ID)
					if rec := l.recorded(t, sb.ID); mach.Papers.End.Before(rec.End) || mach.Papers.End.After(rec.MaxEnd) {
						t.Errorf("papers end %v, record %v, at most %v", mach.Papers.End, rec.End, rec.MaxEnd)
					}
				})
			})
		}
	}
}

// endlessStore can't change an end.
type endlessStore struct {
	sessions.Store
	broken bool
}

func (s *endlessStore) SetEnd(ctx context.Context, id string, end time.Time, ch sessions.Change) (sessions.Sandbox, error) {
	if s.broken {
		return sessions.Sandbox{}, sessions.ErrStoreUnavailable
	}
	return s.Store.SetEnd(ctx, id, end, ch)
}

// Extensions of one sandbox at once must leave papers and record in step.
func TestExtendsAtOnce(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			time.Sleep(time.Duration(l.world.count("relabel")%3) * time.Second) // let them overtake each other
			return do()
		})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := l.Extend(as(t, "alice"), sb.ID, time.Duration(10+(i*37)%100)*time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		mach, _ := l.world.machine(sb.ID)
		if rec := l.recorded(t, sb.ID); !rec.End.Equal(mach.Papers.End) {
			t.Errorf("papers end %v, record %v", mach.Papers.End, rec.End)
		}
	})
}

func TestDestroy(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		alice := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if gone, err := l.Destroy(alice, sb.ID); gone || err != nil {
			t.Errorf("Destroy: gone %v, %v", gone, err)
		}
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if gone, err := l.Destroy(alice, sb.ID); !gone || err != nil {
			t.Errorf("Destroy again: gone %v, %v", gone, err)
		}
		_, err := l.Get(alice, sb.ID, 0)
		if _, msg := kind(t, err); !strings.Contains(msg, "(destroyed by its owner)") {
			t.Errorf("Get: %q", msg)
		}
	})
}

// Destroyed at any point of its making, a sandbox leaves no machine: also when
// the backend pays no heed to the cancelling and makes it all the same.
func TestDestroyWhileMaking(t *testing.T) {
	for _, op := range []string{"create", "dial", "run"} {
		for _, deaf := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-deaf-%v", op, deaf), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
					l.ReconcileEvery = 24 * time.Hour // which would mend it, too
					l.run()
					defer l.stop()
					l.world.onStep(func(ctx context.Context, o, _ string, do func() error) error {
						if o != op {
							return do()
						}
						if deaf {
							time.Sleep(2 * time.Minute) // longer than the destroying waits for it
							return do()
						}
						<-ctx.Done()
						return ctx.Err()
					})
					sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil && !deaf {
						t.Error(err)
					}
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					l.mustBe(t, sb.ID, sessions.Destroyed)
				})
			})
		}
	}
}

// That a sandbox is destroyed means that nothing can make its machine any more.
func TestDestroyWaitsForTheMaking(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		making := make(chan struct{})
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" {
				defer close(making)
				time.Sleep(10 * time.Second)
			}
			return do()
		})
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Fatal(err)
		}
		select {
		case <-making:
		default:
			t.Error("destroyed while the backend still makes it")
		}
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

// One machine that hangs delays neither the end of others nor Destroy for ever.
func TestHangingDestroy(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		bad := l.create(t, sessions.CreateRequest{TTL: 10 * time.Minute})
		good := l.create(t, sessions.CreateRequest{TTL: 10 * time.Minute})
		l.world.hang("destroy", bad.ID)
		_, err := l.Destroy(as(t, "alice"), bad.ID)
		if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "is being destroyed") {
			t.Errorf("Destroy: %v %q", k, msg)
		}
		time.Sleep(10*time.Minute - 30*time.Second)
		synctest.Wait()
		l.mustBe(t, good.ID, sessions.Destroyed)
		l.mustBe(t, bad.ID, sessions.Destroying)
		if n := l.world.count("destroy"); n < 3 || n > 30 {
			t.Errorf("%d tries in 10 min", n)
		}
		l.world.onStep(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		l.mustBe(t, bad.ID, sessions.Destroyed)
	})
}
