package sessions_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// What was being made, and is not wanted any more, gives back its place some time
// after its end: the pool is told, also if the machine can't be removed.
func TestPoolIsToldOfAFreePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Parallel, l.ReconcileEvery = map[string]int{"mem": 1}, time.Hour
		l.Profiles[0].Pool = sessions.Pool{Size: 1}
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			if op == "destroy" { // whose end would wake the pool as well
				<-ctx.Done()
				return ctx.Err()
			}
			if sb, err := l.db.Sandbox(context.WithoutCancel(ctx), id); op == "create" && err == nil && sb.Owner == "bob" {
				time.Sleep(10 * time.Minute)
			}
			return do()
		})
		bobs, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{Cores: 1})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if sb := l.create(t, sessions.CreateRequest{}); sb.Keys != 1 {
			t.Errorf("got %+v, want the pool's", sb)
		}
		if gone, err := l.Destroy(as(t, "bob"), bobs.ID); gone {
			t.Errorf("Destroy: gone, %v", err)
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 1 {
			t.Errorf("%d members once there is a place to make one", n)
		}
	})
}
