package sessions_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// onClock gives f a lab with a profile that edit has changed, whose clock f can set
// by so much.
func onClock(t *testing.T, w *world, edit func(*sessions.Profile), f func(t *testing.T, l *lab, set func(time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, w, filepath.Join(t.TempDir(), "agentlab.db"))
		edit(&l.Profiles[0])
		var off atomic.Int64
		l.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		f(t, l, func(by time.Duration) { off.Add(int64(by)) })
	})
}

func poolOfOne(p *sessions.Profile) { p.Pool = sessions.Pool{Size: 1, MaxAge: 4 * time.Hour} }

// How long something takes does not depend on what the clock is set to meanwhile.
func TestClockIsSetWhileMaking(t *testing.T) {
	onClock(t, &world{}, func(*sessions.Profile) {}, func(t *testing.T, l *lab, set func(time.Duration)) {
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" {
				time.Sleep(time.Minute)
			}
			return do()
		})
		time.AfterFunc(5*time.Second, func() { set(6 * time.Minute) })
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{TTL: 4 * time.Hour, Wait: 2 * time.Minute})
		if err != nil || sb.State != sessions.Ready {
			t.Errorf("%s (%s), %v", sb.State, sb.Reason, err)
		}
	})
}

func TestClockIsSetBackWhileAPoolRests(t *testing.T) {
	w := &world{recipe: "v1"}
	w.fail("create", provisioner.ErrUnavailable)
	onClock(t, w, poolOfOne, func(t *testing.T, l *lab, set func(time.Duration)) {
		time.Sleep(500 * time.Millisecond)
		l.world.onStep(nil)
		set(-time.Hour)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 1 {
			t.Errorf("%d members", n)
		}
	})
}

func TestClockIsSetBackBeforeARecipeChanges(t *testing.T) {
	onClock(t, &world{recipe: "v1"}, poolOfOne, func(t *testing.T, l *lab, set func(time.Duration)) {
		before := l.members(t, sessions.Ready)[0]
		set(-time.Hour)
		l.world.mu.Lock()
		l.world.recipe = "v2"
		l.world.mu.Unlock()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		l.mustBe(t, before.ID, sessions.Destroyed)
	})
}
