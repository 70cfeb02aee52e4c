package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func (l *lab) prune(t *testing.T, dry bool) sessions.Pruning {
	t.Helper()
	p, err := l.Prune(t.Context(), dry)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pruned is a Pruning as text, a line for each.
func pruned(p sessions.Pruning) string {
	var b strings.Builder
	for _, e := range p.List {
		fmt.Fprintf(&b, "%s: %s, left %v, %s\n", e.ID, e.Why, e.Left, e.Problem)
	}
	return b.String()
}

// A dry prune says what is stuck and does nothing. One that is not dry tries it at
// once, though its next try is minutes away, and touches nothing that lives.
func TestPruneTriesWhatIsStuckNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.doomed(t, 2)
		l.world.fail("destroy", errNode)
		l.run()
		defer l.stop()
		alive := l.create(t, sessions.CreateRequest{})
		time.Sleep(20 * time.Minute)
		synctest.Wait()

		tries := l.world.count("destroy")
		dry := l.prune(t, true)
		const why = "it has ended, and its machine is still there"
		if len(dry.List) != 2 || dry.List[0].ID != "sb-0" || dry.List[0].Why != why || !strings.HasPrefix(dry.List[1].Problem, "node pve2 does not answer; next try at") {
			t.Errorf("dry: %s", pruned(dry))
		}
		synctest.Wait()
		if n := l.world.count("destroy"); n != tries {
			t.Errorf("a dry prune destroyed %d times", n-tries)
		}
		if again := l.prune(t, false); len(again.List) != 2 || !strings.HasPrefix(again.List[0].Problem, "node pve2 does not answer") {
			t.Errorf("while it is down: %s", pruned(again))
		}
		l.world.onStep(nil)
		start := time.Now()
		if done := l.prune(t, false); len(done.List) != 2 || done.List[0].Problem != "" || done.List[1].Problem != "" {
			t.Errorf("when it is back: %s", pruned(done))
		}
		if took := time.Since(start); took > 10*time.Second { // of fake time
			t.Errorf("it waited %v for the next try", took)
		}
		l.mustBe(t, "sb-0", sessions.Destroyed)
		l.mustBe(t, "sb-1", sessions.Destroyed)
		l.mustBe(t, alive.ID, sessions.Ready)
		if p := l.prune(t, false); len(p.List) != 0 {
			t.Errorf("nothing is left, but: %s", pruned(p))
		}
	})
}

// What one look says and another must confirm is left to the reconciler.
func TestPruneLeavesWhatIsInDoubt(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.drop(sb.ID)
		if p := l.prune(t, false); pruned(p) != sb.ID+": failed: its machine vanished, left true, \n" {
			t.Errorf("pruned: %s", pruned(p))
		}
		if sb, err := l.db.Sandbox(t.Context(), sb.ID); err != nil || sb.State != sessions.Ready {
			t.Errorf("%s, %v, want READY", sb.State, err)
		}
	})
}

// Where machines can't be listed, nothing is decided.
func TestPruneDecidesNothingUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.doomed(t, 1)
		l.world.fail("list", errNode)
		p := l.prune(t, false)
		if len(p.List) != 0 || !errors.Is(p.Unread["mem"], provisioner.ErrUnavailable) {
			t.Errorf("pruned: %s, unread: %v", pruned(p), p.Unread)
		}
		l.mustBe(t, "sb-0", sessions.Destroying)
		l.stop()
	})
}

// A machine without a record that is past its end, a second machine, and one that
// hangs.
func TestPruneOfMachines(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		synctest.Wait() // the first look at the machines is over
		past := time.Now().Add(-time.Minute)
		orphan := func(id string) provisioner.Machine {
			return provisioner.Machine{
				Ref:    provisioner.Ref{Sandbox: id, Handle: "h-" + id},
				Papers: provisioner.Papers{Instance: "i", Sandbox: id, Owner: "bob", Profile: "small", Created: past.Add(-time.Hour), End: past, MaxEnd: past},
			}
		}
		spare, _ := l.world.machine(sb.ID)
		spare.Handle, spare.Spare = "second", true
		l.world.mu.Lock()
		l.world.spare = append(l.world.spare, spare)
		l.world.mu.Unlock()
		l.world.fail("trim", errNode)
		if got, want := pruned(l.prune(t, false)), sb.ID+": it has a second machine, left false, node pve2 does not answer\n"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		l.world.onStep(nil)
		l.world.put(orphan("sb-orphan"))
		want := "sb-orphan: it has ended, and its machine is still there, left false, \n" + sb.ID + ": it has a second machine, left false, \n"
		for _, dry := range []bool{true, false} {
			if got := pruned(l.prune(t, dry)); got != want {
				t.Errorf("dry %v: got %s, want %s", dry, got, want)
			}
		}
		_, there := l.world.machine("sb-orphan")
		if there || l.world.count("trim") != 2 {
			t.Errorf("orphan there: %v, tried to trim %d times", there, l.world.count("trim"))
		}
		l.mustBe(t, sb.ID, sessions.Ready)

		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			if op == "destroy" {
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		for i := range 100 { // many more than are removed at once
			l.world.put(orphan(fmt.Sprint("sb-hangs-", i)))
		}
		start := time.Now()
		got := l.prune(t, false)
		for _, e := range got.List {
			if !strings.HasPrefix(e.Problem, "its backend ") {
				t.Errorf("%s: %q", e.ID, e.Problem)
			}
		}
		if took := time.Since(start); len(got.List) != 100 || took > time.Minute { // of fake time
			t.Errorf("%d pruned in %v", len(got.List), took)
		}
		l.world.onStep(nil)
	})
}

// A status asks each backend, says which profiles need it, and counts what there is.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		broken, slow := &checked{world: &world{}}, &checked{world: &world{}}
		broken.answer(func(context.Context) error { return errNode })
		slow.answer(func(context.Context) error { time.Sleep(time.Hour); return nil })
		l.Backends["broken"], l.Backends["slow"] = broken, slow
		l.Profiles[0].Pool.Size = 2
		l.doomed(t, 1)
		l.world.fail("destroy", errNode)
		l.run()
		defer l.stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		st, err := l.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(st.Backends), "[{broken [] node pve2 does not answer} {mem [small] } {slow [] no answer within 20s}]"; got != want {
			t.Errorf("backends: got %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(st.States, st.Pools), "map[DESTROYING:1] [{small 2 2 0 0s}]"; got != want {
			t.Errorf("states and pools: got %s, want %s", got, want)
		}
		if len(st.Stuck) != 1 || st.Stuck[0].ID != "sb-0" || !strings.HasPrefix(st.Stuck[0].Problem, "node pve2") {
			t.Errorf("stuck: %v", st.Stuck)
		}
		l.world.fail("create", errNode)
		members, err := l.db.List(t.Context(), sessions.Query{Owner: sessions.PoolOwner("small")})
		if err != nil {
			t.Fatal(err)
		}
		for _, sb := range members {
			l.world.drop(sb.ID)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st, err = l.Status(t.Context()); err != nil || st.Pools[0].Ready != 0 || st.Pools[0].Rests == 0 {
			t.Errorf("pool that can't be filled: %+v, %v", st.Pools, err)
		}
		time.Sleep(time.Hour) // until slow has answered
	})
}

// What is made still, though later than a record says that it can be, is not told to
// be gone.
func TestPruneOfWhatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.world.hang("create", "")
		l.run()
		defer func() { l.stop() }()
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(l.MakeTimeout - time.Minute)
		l.restart() // who goes on has all the time again
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := pruned(l.prune(t, false)); got != sb.ID+": failed: it was not ready in time, left false, it was not over after all, and goes on\n" {
			t.Errorf("prune: %s", got)
		}
	})
}
