package sessions_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// inPool runs a test as inLab does, with a pool of the first profile that is full.
func inPool(t *testing.T, p sessions.Pool, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "agentlab.db"))
		l.Profiles[0].Pool = p
		l.run()
		defer func() { l.stop() }()
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != p.Size {
			t.Fatalf("%d members are READY, want %d", n, p.Size)
		}
		f(t, l)
	})
}

// again replaces the Manager as restart does, after an edit.
func (l *lab) again(p sessions.Pool, edit func()) {
	l.stop()
	*l = *newLab(l.t, l.world, l.path)
	l.Profiles[0].Pool = p
	if edit != nil {
		edit()
	}
	l.run()
	synctest.Wait()
}

// members returns those of the pool that are in that state, in all if it is
// empty, the oldest first.
func (l *lab) members(t *testing.T, state sessions.State) []sessions.Sandbox {
	t.Helper()
	all, err := l.db.List(t.Context(), sessions.Query{Owner: sessions.PoolOwner("small"), Ending: true})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(sb sessions.Sandbox) bool { return state != "" && sb.State != state })
}

// A sandbox is there at once, as its owner's in the record and on the machine,
// and another one is made ahead.
func TestCreateFromThePool(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		oldest := l.members(t, "")[0]
		l.world.mu.Lock()
		l.world.dialled = nil
		l.world.mu.Unlock()
		time.Sleep(time.Minute)
		sb := l.create(t, sessions.CreateRequest{Name: "web"})
		if sb.ID != oldest.ID || sb.Owner != "alice" || sb.Keys != 1 || time.Since(sb.Created) != 0 || time.Until(sb.End) != time.Hour ||
			time.Until(sb.MaxEnd) != 4*time.Hour || !sb.Ready.Equal(sb.Created) || sb.Home != "/workspace" {
			t.Errorf("got %+v\nof the member %+v", sb, oldest)
		}
		want := provisioner.Papers{
			Instance: "i", Sandbox: sb.ID, Owner: "alice", Name: "web", Profile: "small", Keys: 1, MemoryMB: 100,
			Created: sb.Created, End: sb.End, MaxEnd: sb.MaxEnd,
		}
		if m, _ := l.world.machine(sb.ID); m.Papers != want {
			t.Errorf("papers (-want +got):\n%s", cmp.Diff(want, m.Papers))
		}
		if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
		l.world.mu.Lock() // the next member is being made
		if !slices.Equal(l.world.rekeyed, []string{sb.ID + " web"}) {
			t.Errorf("re-keyed: %q", l.world.rekeyed)
		}
		if slices.Contains(l.world.dialled, sb.Handle) {
			t.Error("the channel that re-keying gave is not the one in use")
		}
		l.world.mu.Unlock()
		if again, existing, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web"}); err != nil || !existing || again.ID != sb.ID {
			t.Errorf("Create again: %+v, existing %v, %v", again, existing, err)
		}
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 2 {
			t.Errorf("%d members afterwards, want 2", n)
		}
	})
}

// Members are nobody's: not seen, not used, not destroyed, and on nobody's account.
func TestMembersAreNobodys(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		id := l.members(t, "")[0].ID
		ctx := as(t, "alice")
		if list, err := l.List(ctx); err != nil || len(list) != 0 {
			t.Errorf("List: %v, %v", list, err)
		}
		if _, err := l.Get(ctx, id, 0); !isKind(err, sessions.NotFound) {
			t.Errorf("Get: %v", err)
		}
		if err := l.Use(ctx, id, 0, nothing); !isKind(err, sessions.NotFound) {
			t.Errorf("Use: %v", err)
		}
		if _, err := l.Extend(ctx, id, time.Hour); !isKind(err, sessions.NotFound) {
			t.Errorf("Extend: %v", err)
		}
		if gone, err := l.Destroy(ctx, id); err != nil || !gone {
			t.Errorf("Destroy: %v, %v", gone, err)
		}
		l.mustBe(t, id, sessions.Ready)
		if n, err := l.Active(t.Context()); err != nil || n != 2 {
			t.Errorf("Active: %d, %v, want 2", n, err)
		}
		one := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "alice", Quota: sessions.Quota{Sandboxes: 1, MemoryMB: 100}})
		if sb, _, err := l.Create(one, sessions.CreateRequest{Wait: time.Minute}); err != nil || sb.ID != id {
			t.Errorf("Create with a quota of one: %+v, %v", sb, err)
		}
		// Who would have their name is nobody.
		pool := as(t, sessions.PoolOwner("small"))
		if _, err := l.List(pool); !isKind(err, sessions.Internal) {
			t.Errorf("List of the pool's: %v", err)
		}
		if _, ok := sessions.PrincipalFrom(pool); ok {
			t.Error("a principal has the name of a pool")
		}
	})
}

func isKind(err error, k sessions.Kind) bool {
	e, ok := errors.AsType[*sessions.Error](err)
	return ok && e.Kind == k
}

// What is not of the profile's size is made as ever.
func TestOtherSizesAreMade(t *testing.T) {
	for name, req := range map[string]sessions.CreateRequest{
		"cores": {Cores: 1}, "memory": {MemoryMB: 64}, "disk": {DiskMB: 16}, "network": {Network: "none"},
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
				warm := l.create(t, req).Keys > 0
				if want := name == "network"; warm != want { // which is the profile's
					t.Errorf("from the pool: %v, want %v", warm, want)
				}
			})
		})
	}
}

// A machine that can't be handed over is removed, and whoever asked gets the next
// one, within the quota.
func TestHandOverFails(t *testing.T) {
	for _, members := range []int{1, 2} {
		inPool(t, sessions.Pool{Size: members}, func(t *testing.T, l *lab) {
			first := l.members(t, "")[0].ID
			l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
				if op == "rekey" && id == first {
					return errors.New("it does not answer")
				}
				if op == "destroy" {
					time.Sleep(5 * time.Second) // as long it counts
				}
				return l.noMore(ctx, op, id, do)
			})
			one := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "alice", Quota: sessions.Quota{Sandboxes: 1}})
			sb, existing, err := l.Create(one, sessions.CreateRequest{Name: "web", Wait: time.Minute})
			if err != nil || existing || sb.ID == first || sb.State != sessions.Ready || sb.Name != "web" || sb.Keys != members-1 {
				t.Errorf("with %d members: %+v, existing %v, %v", members, sb, existing, err)
			}
			synctest.Wait()
			l.mustBe(t, first, sessions.Destroyed)
			l.mustBe(t, sb.ID, sessions.Ready)
		})
	}
}

// One that can't be handed over counts until it is removed. If that takes long,
// whoever asked is told so, and has not two for one.
func TestHandOverFailsAndRemovalHangs(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2}, func(t *testing.T, l *lab) {
		first := l.members(t, "")[0].ID
		l.world.onStep(func(ctx context.Context, op, id string, do func() error) error {
			switch {
			case op == "rekey" && id == first:
				return errors.New("its node is down")
			case op == "destroy" && id == first:
				<-ctx.Done()
				return ctx.Err()
			}
			return l.noMore(ctx, op, id, do)
		})
		two := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "alice", Quota: sessions.Quota{Sandboxes: 2}})
		sb, _, err := l.Create(two, sessions.CreateRequest{Wait: time.Minute})
		if !isKind(err, sessions.Unavailable) || !strings.Contains(err.Error(), first+" could not be handed over") {
			t.Errorf("Create: %+v, %v", sb, err)
		}
		if use, err := l.db.Usage(t.Context(), "alice"); err != nil || use.Sandboxes != 1 {
			t.Errorf("%d count, want the one that is being removed, %v", use.Sandboxes, err)
		}
		if sb, _, err := l.Create(two, sessions.CreateRequest{Wait: time.Minute}); err != nil || sb.Keys != 1 {
			t.Errorf("the next Create: %+v, %v", sb, err)
		}
	})
}

// noMore is a step of a backend that comes to no end with a member.
func (l *lab) noMore(ctx context.Context, op, id string, do func() error) error {
	if sb, err := l.db.Sandbox(ctx, id); op == "create" && err == nil && sb.Pooled() {
		<-ctx.Done()
		return ctx.Err()
	}
	return do()
}

// Who can't wait so long is told where it stands, and who is gone leaves nothing.
func TestHandOverHangs(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		l.world.hang("rekey", "")
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil || sb.State != sessions.Booting {
			t.Errorf("Create: %+v, %v", sb, err)
		}
		time.Sleep(time.Minute)
		l.mustBe(t, sb.ID, sessions.Destroyed)
		if n := l.world.conns(); n != 1 {
			t.Errorf("%d connections, want that of the next member", n)
		}
	})
}

// A crash at any moment of a claim leaves what was claimed to the next run.
func TestRestartGoesOnHandingOver(t *testing.T) {
	for _, after := range []bool{false, true} {
		inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
			l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
				if op != "rekey" {
					return do()
				}
				if after {
					_ = do() // the connection is lost with the process
					l.world.mu.Lock()
					l.world.open--
					l.world.mu.Unlock()
				}
				<-ctx.Done()
				return ctx.Err()
			})
			sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web", Wait: time.Second})
			if err != nil || sb.State != sessions.Booting {
				t.Fatalf("Create: %+v, %v", sb, err)
			}
			l.stop()
			l.world.onStep(nil)
			l.again(sessions.Pool{Size: 1}, nil)
			got, err := l.Get(as(t, "alice"), sb.ID, time.Minute)
			if err != nil || got.State != sessions.Ready || got.Keys != 1 || got.Name != "web" {
				t.Errorf("Get: %+v, %v", got, err)
			}
			if m, _ := l.world.machine(sb.ID); m.Papers.Owner != "alice" || m.Papers.Keys != 1 {
				t.Errorf("papers: %+v", m.Papers)
			}
			if n := l.world.count("create"); n != 2 {
				t.Errorf("%d machines were made, want one and the next", n)
			}
		})
	}
}

// One that is claimed in the moment in which it is READY is handed over all the same.
func TestClaimOfWhatIsJustReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{recipe: "v1"}, filepath.Join(t.TempDir(), "db"))
		l.Profiles[0].Pool = sessions.Pool{Size: 1}
		var sb sessions.Sandbox
		var err error
		var once sync.Once
		l.Store = &spied{Store: l.Store, moved: func(kept sessions.Sandbox) {
			if kept.State == sessions.Ready && kept.Pooled() {
				once.Do(func() {
					sb, _, err = l.Create(as(t, "alice"), sessions.CreateRequest{})
				})
			}
		}}
		l.run()
		defer l.stop()
		synctest.Wait()
		if err != nil || sb.Keys != 1 {
			t.Fatalf("Create: %+v, %v", sb, err)
		}
		l.mustBe(t, sb.ID, sessions.Ready)
		if n := l.world.count("rekey"); n != 1 {
			t.Errorf("re-keyed %d times", n)
		}
	})
}

// spied is a store that tells what it did before it answers.
type spied struct {
	sessions.Store
	moved  func(sessions.Sandbox)
	listed func(sessions.Query)
}

func (s *spied) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	sb, err := s.Store.Move(ctx, id, to, ch)
	if err == nil && s.moved != nil {
		s.moved(sb)
	}
	return sb, err
}

func (s *spied) List(ctx context.Context, q sessions.Query) ([]sessions.Sandbox, error) {
	list, err := s.Store.List(ctx, q)
	if s.listed != nil {
		s.listed(q)
	}
	return list, err
}
