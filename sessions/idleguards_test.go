package sessions_test

import (
	"context"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// A member of a pool that does not keep it yet, since the backend has not said what
// there is, is not idle: it may be somebody's by now.
func TestUnseenMembersAreNotIdle(t *testing.T) {
	p := sessions.Pool{Size: 1, MaxAge: 10 * idleTimeout}
	inPool(t, p, func(t *testing.T, l *lab) {
		member := l.members(t, "")[0]
		l.stop()
		l.world.hang("list", "")
		l.again(p, func() { l.Profiles[0].IdleTimeout = idleTimeout })
		time.Sleep(2 * idleTimeout)
		synctest.Wait()
		l.mustBe(t, member.ID, sessions.Ready)
	})
}

// What is still being made is not idle, however long that takes.
func TestMakingIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].IdleTimeout = 20 * time.Second
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "create" {
				time.Sleep(2 * time.Minute)
			}
			return do()
		})
		l.run()
		defer func() { l.stop() }()
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: 2*time.Minute + time.Second})
		if err != nil || sb.State != sessions.Ready {
			t.Errorf("Create: %+v, %v", sb, err)
		}
	})
}

// A profile without an idle timeout has none, though another has one.
func TestIdleTimeoutOfAnotherProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[1].IdleTimeout = 20 * time.Second
		l.run()
		defer func() { l.stop() }()
		sb := l.create(t, sessions.CreateRequest{TTL: time.Hour})
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}

// A guest that has not answered yet is not asked once more.
func TestGuestIsAskedOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].IdleTimeout = 20 * time.Second // looked for each second
		l.run()
		defer func() { l.stop() }()
		l.used(t)
		l.world.hang("processes", "")
		time.Sleep(28 * time.Second)
		synctest.Wait()
		if n := l.world.count("processes"); n != 1 {
			t.Errorf("asked %d times before it has answered", n)
		}
	})
}

// Of several idle timeouts the shortest says how often to look, in whatever order
// the profiles are.
func TestShortestIdleTimeout(t *testing.T) {
	for _, others := range [][2]time.Duration{{0, 10 * time.Hour}, {10 * time.Hour, 0}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
			l.Profiles[0].IdleTimeout = 20 * time.Second
			before, after := l.Profiles[1], l.Profiles[1]
			before.Name, before.IdleTimeout, after.IdleTimeout = "before", others[0], others[1]
			l.Profiles = []sessions.Profile{before, l.Profiles[0], after}
			l.run()
			defer func() { l.stop() }()
			sb := l.create(t, sessions.CreateRequest{Profile: "small"})
			time.Sleep(22 * time.Second)
			synctest.Wait()
			l.mustBe(t, sb.ID, sessions.Destroyed)
		})
	}
}

// Where no profile has an idle timeout nobody looks.
func TestNobodyLooksForIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Store = &spied{Store: l.Store, listed: func(q sessions.Query) {
			if reflect.DeepEqual(q, sessions.Query{}) {
				t.Error("all sandboxes were read")
			}
		}}
		l.run()
		defer func() { l.stop() }()
		time.Sleep(10 * time.Minute)
	})
}

// What is past its end has ended for that, and not for being idle too.
func TestWhatIsOverIsNotIdle(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{TTL: time.Hour})
		began := time.Now()
		l.stop()
		*l = *newLab(t, l.world, l.path)
		l.Profiles[0].IdleTimeout = idleTimeout
		time.Sleep(time.Hour)
		if err := l.LookForIdle(t.Context(), began); err != nil {
			t.Error(err)
		}
		l.Settle()
		l.mustBe(t, sb.ID, sessions.Ready) // no reaper runs here
	})
}

// A guest whose clock is ahead, by mistake or on purpose, keeps nothing longer than
// it says so: it is asked again after each timeout.
func TestGuestWithAnotherClock(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		l.world.runs(sb.ID, guest.Process{ID: "p_1", Started: time.Now().Add(24 * time.Hour)})
		time.Sleep(idleTimeout + idleLook)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Running)
		l.world.runs(sb.ID, guest.Process{ID: "p_1", Started: time.Now().Add(-time.Hour)})
		time.Sleep(idleTimeout + idleLook)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}
