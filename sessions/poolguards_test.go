package sessions_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// A daemon that is stopped while it asks members whether they answer has not heard
// that they don't: they stay.
func TestStopWhileMembersAreVerified(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		members := l.members(t, "")
		l.stop()
		l.world.hang("run", "")
		l.again(sessions.Pool{Size: 2}, nil)
		l.stop()
		l.world.onStep(nil)
		l.again(sessions.Pool{Size: 2}, nil)
		for _, sb := range members {
			l.mustBe(t, sb.ID, sessions.Ready)
		}
	})
}

// What is in a pool waits for whoever wants it, however long no call comes.
func TestMembersAreNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].IdleTimeout = idleTimeout
		l.Profiles[0].Pool = sessions.Pool{Size: 1, MaxAge: 10 * idleTimeout}
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		member := l.members(t, sessions.Ready)[0]
		time.Sleep(2 * idleTimeout)
		synctest.Wait()
		l.mustBe(t, member.ID, sessions.Ready)
	})
}

// A member that ends before it could be handed over is not given away.
func TestClaimOfWhatEndsSoon(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1, MaxAge: time.Minute}, func(t *testing.T, l *lab) {
		l.world.onStep(l.noMore)
		time.Sleep(30*time.Second - time.Nanosecond)
		if sb := l.members(t, sessions.Ready); len(sb) != 1 {
			t.Fatalf("members: %+v", sb)
		}
		time.Sleep(time.Nanosecond)
		if sb := l.create(t, sessions.CreateRequest{}); sb.Keys != 0 {
			t.Errorf("got %+v, which had 30 s to live", sb)
		}
	})
}

// A member is replaced when it comes of age, also if nothing else has the pool
// looked at then.
func TestMemberComesOfAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.ReconcileEvery = 2 * time.Hour
		l.Profiles[0].Pool = sessions.Pool{Size: 1, MaxAge: 10 * time.Minute}
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		first := l.members(t, sessions.Ready)[0]
		time.Sleep(8*time.Minute - time.Nanosecond)
		synctest.Wait()
		l.mustBe(t, first.ID, sessions.Ready)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if now := l.members(t, sessions.Ready); len(now) != 1 || now[0].ID == first.ID {
			t.Errorf("members at four fifths of the age: %+v", now)
		}
	})
}

// What became READY after the reconciler has read that it is late in being made
// is not failed for that.
func TestLateMakingEndsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		defer func() { l.stop() }()
		now := time.Now().UTC().Round(0)
		sb := sessions.Sandbox{
			ID: "sb-late", Owner: "alice", Profile: "small", Backend: "mem", State: sessions.Booting, Handle: "h-late",
			Created: now, Begun: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
		}
		if _, _, err := l.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			t.Fatal(err)
		}
		l.world.put(provisioner.Machine{Ref: sb.Ref(), Running: true, Papers: provisioner.Papers{
			Instance: "i", Sandbox: sb.ID, Owner: "alice", Profile: "small", Created: now, End: sb.End, MaxEnd: sb.MaxEnd,
		}})
		time.Sleep(30 * time.Minute) // which is too late
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "list" {
				if _, err := l.db.Move(ctx, sb.ID, sessions.Ready, sessions.Change{At: time.Now()}); err != nil {
					t.Error(err)
				}
			}
			return do()
		})
		if err := l.Reconcile(t.Context(), "mem"); err != nil {
			t.Error(err)
		}
		l.Settle()
		l.mustBe(t, sb.ID, sessions.Ready)
	})
}
