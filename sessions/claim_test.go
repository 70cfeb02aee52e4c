package sessions_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// What somebody claims between the look at a member and what is decided of it is
// theirs: neither drained, nor expired, nor given up.
func TestClaimAfterTheLook(t *testing.T) {
	for name, tt := range map[string]struct {
		look func(q sessions.Query) bool
		then func(l *lab, clock *atomic.Int64)
	}{
		"drain": {func(q sessions.Query) bool { return q.Owner == sessions.PoolOwner("small") }, func(l *lab, _ *atomic.Int64) {
			l.world.mu.Lock()
			l.world.recipe = "v2"
			l.world.mu.Unlock()
		}},
		"expire": {func(q sessions.Query) bool { return q.ByEnd }, func(_ *lab, clock *atomic.Int64) { clock.Add(int64(30 * time.Minute)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
				l.Profiles[0].Pool = sessions.Pool{Size: 1, MaxAge: 20 * time.Minute}
				var clock atomic.Int64
				l.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
				var armed atomic.Bool
				var sb sessions.Sandbox
				var err error
				l.Store = &spied{Store: l.Store, listed: func(q sessions.Query) {
					if tt.look(q) && armed.CompareAndSwap(true, false) {
						sb, _, err = l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Minute})
						tt.then(l, &clock)
					}
				}}
				l.run()
				defer l.stop()
				synctest.Wait()
				armed.Store(true)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if armed.Load() || err != nil || sb.Keys != 1 {
					t.Fatalf("nobody looked, or it was not claimed: %+v, %v", sb, err)
				}
				l.mustBe(t, sb.ID, sessions.Ready)
			})
		})
	}
}

// Two who ask at once for the only machine get two.
func TestTwoClaimOne(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		l.world.onStep(l.noMore)
		var wg sync.WaitGroup
		var got [2]sessions.Sandbox
		for i, who := range []string{"alice", "bob"} {
			wg.Go(func() {
				var err error
				got[i], _, err = l.Create(as(t, who), sessions.CreateRequest{Wait: time.Minute})
				if err != nil || got[i].Owner != who {
					t.Errorf("%s: %+v, %v", who, got[i], err)
				}
			})
		}
		wg.Wait()
		if got[0].ID == got[1].ID || got[0].Keys+got[1].Keys != 1 {
			t.Errorf("got %+v\nand %+v", got[0], got[1])
		}
		for _, sb := range got {
			if m, _ := l.world.machine(sb.ID); m.Papers.Owner != sb.Owner {
				t.Errorf("%s's machine says it is %s's", sb.Owner, m.Papers.Owner)
			}
		}
	})
}

// Whoever goes on with what it saw being made, when that was claimed already, and
// whoever has claimed it, hand it over once.
func TestHandOverIsDoneOnce(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		before := l.members(t, "")[0]
		want := before
		want.ID, want.Owner, want.End, want.MaxEnd = "sb-new", "alice", before.Created.Add(time.Hour), before.Created.Add(4*time.Hour)
		claimed, _, err := l.db.Claim(t.Context(), want, sessions.Quota{}, sessions.Fit{EndsAfter: before.Created}, sessions.Change{At: before.Created})
		if err != nil || claimed.ID != before.ID {
			t.Fatalf("Claim: %+v, %v", claimed, err)
		}
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "rekey" {
				time.Sleep(time.Second)
			}
			return do()
		})
		before.State = sessions.Booting
		l.Make(before)
		l.Make(claimed)
		time.Sleep(time.Minute)
		l.mustBe(t, claimed.ID, sessions.Ready)
		if n := l.world.count("rekey"); n != 1 {
			t.Errorf("re-keyed %d times", n)
		}
	})
}

// What was claimed since the reconciler read that it was being made stands in no
// line: its machine is there.
func TestGoOnWithWhatWasClaimed(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		before := l.members(t, "")[0]
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "create" {
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		for i := range 8 { // as many as a backend makes at once
			if _, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{Cores: 1}); err != nil {
				t.Fatalf("Create %d: %v", i, err)
			}
		}
		want := before
		want.ID, want.Owner, want.End, want.MaxEnd = "sb-new", "alice", before.Created.Add(time.Hour), before.Created.Add(4*time.Hour)
		if _, _, err := l.db.Claim(t.Context(), want, sessions.Quota{}, sessions.Fit{EndsAfter: before.Created}, sessions.Change{At: before.Created}); err != nil {
			t.Fatal(err)
		}
		before.State = sessions.Booting
		if err := l.GoOn(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		l.mustBe(t, before.ID, sessions.Ready)
	})
}

// The channel of the pool that comes up late, when the machine is its owner's
// already, is closed and disturbs nobody.
func TestClaimOfWhatIsBeingDialled(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		l.stop()
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			if op == "dial" {
				time.Sleep(10 * time.Second)
			}
			return l.noMore(ctx, op, id, do)
		})
		l.again(sessions.Pool{Size: 1}, nil)
		sb := l.create(t, sessions.CreateRequest{})
		if sb.Keys != 1 || l.world.conns() != 1 {
			t.Errorf("got %+v, with %d channels", sb, l.world.conns())
		}
		time.Sleep(time.Minute)
		l.mustBe(t, sb.ID, sessions.Ready)
		if n := l.world.conns(); n != 1 {
			t.Errorf("%d channels are open, want 1", n)
		}
		if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
	})
}

// Who asks for all that is there leaves one to another who asks for one.
func TestClaimsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].Pool = sessions.Pool{Size: 3}
		hold := &slowClaims{Store: l.Store}
		l.Store = hold
		l.run()
		defer l.stop()
		synctest.Wait()
		l.world.onStep(l.noMore)
		var wg sync.WaitGroup
		var bobs sessions.Sandbox
		for i := range 11 {
			who := "alice"
			if i == 10 {
				who = "bob"
			}
			wg.Go(func() {
				sb, _, err := l.Create(as(t, who), sessions.CreateRequest{Wait: time.Minute})
				if err != nil {
					t.Error(err)
				}
				if who == "bob" {
					bobs = sb
				}
			})
			synctest.Wait() // it stands in line
		}
		wg.Wait()
		if bobs.Keys != 1 {
			t.Errorf("bob's is %+v, want one of the pool's", bobs)
		}
	})
}

// slowClaims is a store that takes a second for a claim.
type slowClaims struct{ sessions.Store }

func (s *slowClaims) Claim(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, fit sessions.Fit, ch sessions.Change) (sessions.Sandbox, bool, error) {
	time.Sleep(time.Second)
	return s.Store.Claim(ctx, sb, quota, fit, ch)
}

// Who asks before a new daemon knows what members are made of waits for that, and
// not for a machine.
func TestClaimRightAfterAStart(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		l.stop()
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "recipe" {
				time.Sleep(5 * time.Second)
			}
			return do()
		})
		l.again(sessions.Pool{Size: 1}, nil)
		if sb := l.create(t, sessions.CreateRequest{}); sb.Keys != 1 {
			t.Errorf("got %+v, want the pool's", sb)
		}
		// One that does not answer at all keeps nobody waiting for long.
		l.stop()
		l.world.hang("recipe", "")
		l.again(sessions.Pool{Size: 1}, nil)
		l.create(t, sessions.CreateRequest{})
	})
}
