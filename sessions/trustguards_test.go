package sessions_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// unsure can't keep what machines say the first times.
type unsure struct {
	sessions.Store
	trusts, adopts atomic.Int64 // how often it still can't
}

func (u *unsure) Trust(ctx context.Context, sb sessions.Sandbox, ch sessions.Change) (sessions.Sandbox, error) {
	if u.trusts.Add(-1) >= 0 {
		return sb, sessions.ErrStoreUnavailable
	}
	return u.Store.Trust(ctx, sb, ch)
}

func (u *unsure) Add(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, ch sessions.Change) (sessions.Sandbox, bool, error) {
	if sb.State != sessions.Requested && u.adopts.Add(-1) >= 0 {
		return sb, false, sessions.ErrStoreUnavailable
	}
	return u.Store.Add(ctx, sb, quota, ch)
}

// As long as the store can't keep what the papers of a machine say, its record is
// believed in nothing: its pool drains nothing.
func TestPoolWaitsForTrust(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		backup := filepath.Join(t.TempDir(), "backup")
		if err := store.Backup(t.Context(), l.path, backup); err != nil {
			t.Fatal(err)
		}
		web := l.create(t, sessions.CreateRequest{Name: "web"})
		l.stop()
		l.loseStore(t, backup)
		l.world.recipe = "v2"
		s := &unsure{}
		s.trusts.Store(2)
		l.again(sessions.Pool{Size: 1}, func() { s.Store, l.Store = l.Store, s })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if s.trusts.Load() >= 0 {
			t.Fatalf("the papers were not looked at often enough: %d", s.trusts.Load())
		}
		l.mustBe(t, web.ID, sessions.Ready)
		if got := l.recorded(t, web.ID); got.Owner != "alice" {
			t.Errorf("it is %s's", got.Owner)
		}
	})
}

// As long as the store can't keep a record of what there is, no more is made.
func TestPoolWaitsForRecords(t *testing.T) {
	inPool(t, sessions.Pool{Size: 3, Burst: 3}, func(t *testing.T, l *lab) {
		l.stop()
		l.loseStore(t, "")
		most := 0
		l.world.onStep(func(_ context.Context, _, _ string, do func() error) error {
			err := do()
			l.world.mu.Lock()
			defer l.world.mu.Unlock()
			most = max(most, len(l.world.machines))
			return err
		})
		s := &unsure{}
		s.adopts.Store(3)
		l.again(sessions.Pool{Size: 3, Burst: 3}, func() { s.Store, l.Store = l.Store, s })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 3 || most > 4 || s.adopts.Load() >= 0 {
			t.Errorf("%d members, want 3; there were %d, want 4 at most", n, most)
		}
	})
}

// What was seen to answer when it was made is not asked again.
func TestMembersAreVerifiedOnce(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := l.world.count("run"); n != 2 {
			t.Errorf("2 members were asked %d times", n)
		}
	})
}

// Members past their end of which it is not known whose they are by now, on a
// backend that does not answer, keep nothing else from ending, however many they are.
func TestUnseenMembersHoldUpNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		defer func() { l.stop() }()
		l.world.hang("list", "")
		now := time.Now().UTC().Round(0)
		add := func(id, owner string, end time.Duration) {
			sb := sessions.Sandbox{
				ID: id, Owner: owner, Profile: "small", Backend: "mem", State: sessions.Ready, Handle: "h-" + id,
				Created: now, Begun: now, Ready: now, End: now.Add(end), MaxEnd: now.Add(end),
			}
			if _, _, err := l.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
				t.Fatal(err)
			}
			l.world.put(provisioner.Machine{Ref: sb.Ref(), Running: true})
		}
		const many = 130 // more than are read at once
		for n := range many {
			add(fmt.Sprintf("sb-%03d", n), sessions.PoolOwner("small"), time.Minute)
		}
		add("sb-alices", "alice", 2*time.Minute)
		l.run()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		l.mustBe(t, "sb-alices", sessions.Destroyed)
		if n := len(l.members(t, sessions.Ready)); n != many {
			t.Errorf("%d members are READY, want %d", n, many)
		}
	})
}
