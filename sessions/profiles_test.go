package sessions_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// set replaces the profiles by those of now after an edit of the first.
func (l *lab) set(edit func(p *sessions.Profile)) {
	list := slices.Clone(l.Offered(context.Background()))
	edit(&list[0])
	l.SetProfiles(list)
}

// without sets the profiles without the first.
func (l *lab) without() { l.SetProfiles(slices.Clone(l.Offered(context.Background()))[1:]) }

// The next create goes by the new profile; what was made before stays as it was
// recorded, and can be used, extended and ended when its profile is gone.
func TestProfilesChange(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		ctx := as(t, "alice")
		old := l.create(t, sessions.CreateRequest{})
		l.set(func(p *sessions.Profile) {
			p.MemoryMB, p.MaxTTL, p.MinTTL, p.TTL = 200, 30*time.Minute, 10*time.Minute, 20*time.Minute
		})
		if sb := l.create(t, sessions.CreateRequest{}); sb.MemoryMB != 200 || sb.MaxEnd.Sub(sb.Created) != 30*time.Minute {
			t.Errorf("made of %d MB, for %v at most", sb.MemoryMB, sb.MaxEnd.Sub(sb.Created))
		}
		if sb := l.recorded(t, old.ID); sb.MemoryMB != 100 || sb.MaxEnd != old.MaxEnd {
			t.Errorf("what was there before is %+v", sb)
		}
		l.without()
		if _, _, err := l.Create(ctx, sessions.CreateRequest{Profile: "small"}); err == nil || !strings.Contains(err.Error(), `profile is "small", allowed: other`) {
			t.Errorf("Create of one that is gone: %v", err)
		}
		if err := l.Use(ctx, old.ID, 0, nothing); err != nil {
			t.Errorf("Use: %v", err)
		}
		if sb, err := l.Extend(ctx, old.ID, 3*time.Hour); err != nil || time.Until(sb.End) != 3*time.Hour {
			t.Errorf("Extend: %v until %v", err, sb.End)
		}
		l.restart()
		l.without()
		if err := l.Use(as(t, "alice"), old.ID, 0, nothing); err != nil {
			t.Errorf("Use in the next run: %v", err)
		}
		time.Sleep(3*time.Hour + time.Second)
		synctest.Wait()
		l.mustBe(t, old.ID, sessions.Destroyed)
	})
}

// What is broken is told to who asks for it, also as the default, and to nobody else.
func TestBrokenProfile(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		ctx := as(t, "alice")
		old := l.create(t, sessions.CreateRequest{})
		good := l.Offered(ctx)
		l.SetProfiles([]sessions.Profile{{Name: "small", Problem: `small.yaml:2: unknown key "memory_md"`}, {Name: "fine", Backend: "mem"}})
		for _, name := range []string{"", "small"} {
			_, _, err := l.Create(ctx, sessions.CreateRequest{Profile: name})
			if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, `profile small can't be used now: small.yaml:2: unknown key "memory_md"`) {
				t.Errorf("Create of %q: %v %s", name, k, msg)
			}
		}
		l.create(t, sessions.CreateRequest{Profile: "fine"})
		if err := l.Use(ctx, old.ID, 0, nothing); err != nil {
			t.Errorf("Use: %v", err)
		}
		if p, ok := l.ProfileOf(old); !ok || p.MemoryMB != 100 {
			t.Errorf("what was made of it is of %+v, %v", p, ok)
		}
		st, err := l.Status(ctx)
		if err != nil || len(st.Unusable) != 1 || st.Unusable[0].Profile != "small" || !strings.Contains(st.Unusable[0].Problem, "memory_md") {
			t.Errorf("Status: %+v, %v", st.Unusable, err)
		}
		l.SetProfiles(good)
		l.create(t, sessions.CreateRequest{})
	})
}

// A pool follows its profile: what is not as it would be made now goes, and never
// what somebody has claimed. A broken profile costs no member.
func TestPoolFollowsItsProfile(t *testing.T) {
	full := sessions.Pool{Size: 2, Burst: 2}
	for name, tt := range map[string]struct {
		change func(l *lab)
		keep   int // of the two that were there
		total  int
	}{
		"same":    {func(l *lab) { l.set(func(*sessions.Profile) {}) }, 2, 2},
		"words":   {func(l *lab) { l.set(func(p *sessions.Profile) { p.Description = "other" }) }, 2, 2},
		"memory":  {func(l *lab) { l.set(func(p *sessions.Profile) { p.MemoryMB = 200 }) }, 0, 2},
		"root":    {func(l *lab) { l.set(func(p *sessions.Profile) { p.Root = "/other" }) }, 0, 2},
		"smaller": {func(l *lab) { l.set(func(p *sessions.Profile) { p.Pool.Size = 1 }) }, 1, 1},
		"bigger":  {func(l *lab) { l.set(func(p *sessions.Profile) { p.Pool.Size = 3 }) }, 2, 3},
		"none":    {func(l *lab) { l.set(func(p *sessions.Profile) { p.Pool.Size = 0 }) }, 0, 0},
		"gone":    {func(l *lab) { l.without() }, 0, 0},
		"broken": {func(l *lab) {
			l.set(func(p *sessions.Profile) { *p = sessions.Profile{Name: p.Name, Problem: "it is broken"} })
		}, 2, 2},
		"there-and-back": {func(l *lab) {
			l.set(func(p *sessions.Profile) { p.Root = "/other" })
			l.set(func(p *sessions.Profile) { p.Root = "" })
		}, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, full, func(t *testing.T, l *lab) {
				claimed := l.create(t, sessions.CreateRequest{})
				synctest.Wait()
				before := l.members(t, sessions.Ready)
				tt.change(l)
				synctest.Wait() // and no time passes
				kept := 0
				for _, sb := range before {
					if l.recorded(t, sb.ID).State == sessions.Ready {
						kept++
					} else {
						l.mustBe(t, sb.ID, sessions.Destroyed)
					}
				}
				if all := l.members(t, ""); kept != tt.keep || len(all) != tt.total {
					t.Errorf("%d of the old ones are there, want %d; all: %+v, want %d", kept, tt.keep, all, tt.total)
				}
				l.mustBe(t, claimed.ID, sessions.Ready)
				if n := l.world.conns(); n != tt.total+1 {
					t.Errorf("%d channels are open, want %d", n, tt.total+1)
				}
			})
		})
	}
	t.Run("new", func(t *testing.T) {
		inLab(t, func(t *testing.T, l *lab) {
			l.world.recipe = "v1"
			l.set(func(p *sessions.Profile) { p.Pool = full })
			synctest.Wait()
			if n := len(l.members(t, sessions.Ready)); n != 2 {
				t.Errorf("%d members", n)
			}
		})
	})
}

// begin replaces the Manager by one that finds the first profile broken, until it
// is mended and has that pool.
func (l *lab) begin() (mend func(sessions.Pool)) {
	good := slices.Clone(l.Offered(context.Background()))
	l.again(sessions.Pool{}, func() { l.Profiles[0] = sessions.Profile{Name: "small", Problem: "it is broken"} })
	return func(pool sessions.Pool) {
		good[0].Pool = pool
		l.SetProfiles(good)
		synctest.Wait()
	}
}

// A profile that is broken from the beginning on costs no member either, and when
// it is mended those that there are do.
func TestBrokenFromTheBeginningCostsNoMember(t *testing.T) {
	pool := sessions.Pool{Size: 2}
	inPool(t, pool, func(t *testing.T, l *lab) {
		before := l.members(t, "")
		mend := l.begin()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if all := l.members(t, sessions.Ready); len(all) != 2 || all[0].ID != before[0].ID || all[1].ID != before[1].ID {
			t.Fatalf("members are %+v\nand were %+v", all, before)
		}
		mend(pool)
		if sb := l.create(t, sessions.CreateRequest{}); sb.ID != before[0].ID {
			t.Errorf("got %s, want the member %s", sb.ID, before[0].ID)
		}
		mend = l.begin()
		mend(sessions.Pool{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if all := l.members(t, ""); len(all) != 0 {
			t.Errorf("mended without a pool, there are %+v", all)
		}
	})
}

// What waits to be made goes on when its profile is mended, or ends in its time.
func TestBrokenFromTheBeginningKeepsItsPlace(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.hang("create", "")
		var waiting []sessions.Sandbox
		for i := range 10 {
			sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{TTL: time.Duration(1+9*(i%2)) * 2 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, sb)
		}
		synctest.Wait()
		if sb := l.recorded(t, waiting[9].ID); sb.State != sessions.Requested {
			t.Fatalf("the last one is %s", sb.State)
		}
		l.world.onStep(nil)
		mend := l.begin()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		made := l.world.count("create")
		mend(sessions.Pool{})
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, sb := range waiting {
			want := []sessions.State{sessions.Destroyed, sessions.Ready}[i%2]
			l.mustBe(t, sb.ID, want)
			if reason := l.recorded(t, sb.ID).Reason; strings.Contains(reason, "failed") {
				t.Errorf("%s has %s", sb.ID, reason)
			}
		}
		if n := l.world.count("create") - made; n != 5 {
			t.Errorf("%d were made when it was mended, want 5", n)
		}
	})
}

// What one backend makes machines of is nothing to another one: what has none yet
// when its profile changes to that is not made, and what has one goes on.
func TestNothingIsMadeOfAnotherBackend(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		backends := map[string]provisioner.Provisioner{"mem": l.world, "mem2": &world{}}
		l.restartWith(backends)
		move := func(p *sessions.Profile) { p.Backend = "mem2" }
		there := l.create(t, sessions.CreateRequest{})
		gate := make(chan struct{})
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "create" {
				<-gate
			}
			if op == "dial" {
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		var last sessions.Sandbox
		var boots []string
		for range 9 {
			boots = append(boots, last.ID)
			var err error
			if last, _, err = l.Create(as(t, "alice"), sessions.CreateRequest{TTL: 3 * time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		l.set(move)
		close(gate)
		synctest.Wait()
		l.mustBe(t, last.ID, sessions.Destroyed)
		if reason := l.recorded(t, last.ID).Reason; reason != "failed: profile small is of another backend now; create it again" {
			t.Errorf("it has %s", reason)
		}
		l.mustBe(t, boots[1], sessions.Booting)
		l.world.onStep(nil)
		l.stop()
		*l = *newLab(t, l.world, l.path)
		l.Backends = backends
		move(&l.Profiles[0])
		l.run()
		synctest.Wait()
		for _, id := range boots[1:] {
			l.mustBe(t, id, sessions.Ready)
		}
		ctx := as(t, "alice")
		if err := l.Use(ctx, there.ID, 0, nothing); err != nil {
			t.Error(err)
		}
		if _, err := l.Extend(ctx, there.ID, 2*time.Hour); err != nil {
			t.Error(err)
		}
		if _, err := l.Destroy(ctx, there.ID); err != nil {
			t.Error(err)
		}
		l.mustBe(t, there.ID, sessions.Destroyed)
	})
}

// A pool that is replaced lets go of the channels to its members: whoever claims
// one has it closed when it was not used for long.
func TestReplacedPoolLetsGo(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		member := l.members(t, "")[0]
		l.set(func(p *sessions.Profile) { p.Description = "other" })
		synctest.Wait()
		if sb := l.create(t, sessions.CreateRequest{}); sb.ID != member.ID {
			t.Errorf("got %s, want the member %s", sb.ID, member.ID)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := l.world.conns(); n != 1 {
			t.Errorf("%d channels are open, want 1, of the member that is there now", n)
		}
	})
}

// What is drained while it is being made is no failure of the pool that comes next:
// that does not rest.
func TestDrainedWhileMadeIsNoFailure(t *testing.T) {
	inPool(t, sessions.Pool{Size: 2, Burst: 2}, func(t *testing.T, l *lab) {
		l.world.hang("create", "")
		l.create(t, sessions.CreateRequest{})
		l.create(t, sessions.CreateRequest{})
		synctest.Wait()
		before := l.members(t, sessions.Provisioning)
		l.set(func(p *sessions.Profile) { p.Root = "/other" })
		synctest.Wait() // and no time passes
		now := l.members(t, sessions.Provisioning)
		if len(before) != 2 || len(now) != 2 || now[0].Recipe == before[0].Recipe {
			t.Errorf("being made are %+v\nand were %+v", now, before)
		}
	})
}

// One whose turn comes while its profile is another one must not be made as that:
// when the profile is as it was again, it would be given away as what it is not.
func TestMemberIsMadeAsItIsRecorded(t *testing.T) {
	inPool(t, sessions.Pool{Size: 1}, func(t *testing.T, l *lab) {
		member := l.members(t, "")[0]
		l.set(func(p *sessions.Profile) { p.Root, p.Pool.Size = "/other", 0 })
		synctest.Wait()
		member.ID, member.State, member.Handle = "sb-00000000000000000001", sessions.Requested, ""
		if _, _, err := l.db.Add(t.Context(), member, sessions.Quota{}, sessions.Change{At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		made := l.world.count("create")
		l.Make(member)
		synctest.Wait()
		if sb := l.recorded(t, member.ID); l.world.count("create") != made || !strings.Contains(sb.Reason, "profile small has changed") {
			t.Errorf("it is %s (%s), and was made", sb.State, sb.Reason)
		}
	})
}

// A profile that comes to have an idle timeout, or a shorter one, ends nothing at
// once: the time begins anew.
func TestIdleTimeoutChanges(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		time.Sleep(time.Hour)
		l.set(func(p *sessions.Profile) { p.IdleTimeout = idleTimeout })
		l.livesAndEnds(t, sb, sessions.Running)
		sb = l.used(t)
		l.set(func(p *sessions.Profile) { p.IdleTimeout = 0 })
		time.Sleep(time.Hour)
		if err := l.LookForIdle(t.Context(), time.Now().Add(-24*time.Hour)); err != nil { // one that was on its way
			t.Error(err)
		}
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Running)
	})
}

// However often the profiles change, idle sandboxes are looked for; and the same
// profiles are no change.
func TestIdleWhileProfilesChange(t *testing.T) {
	inIdleLab(t, func(t *testing.T, l *lab) {
		sb := l.used(t)
		for i := range 200 {
			time.Sleep(idleTimeout / 100)
			l.set(func(p *sessions.Profile) { p.Description = fmt.Sprint(i) })
		}
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		list := l.Offered(t.Context())
		l.set(func(*sessions.Profile) {})
		if again := l.Offered(t.Context()); &again[0] != &list[0] {
			t.Error("the same profiles were taken for others")
		}
	})
}

// vetted is a backend that is asked about profiles.
type vetted struct {
	*world
	asked   atomic.Int32
	problem atomic.Pointer[string]
	down    atomic.Bool
}

func (v *vetted) Vet(_ context.Context, spec provisioner.Spec) error {
	v.asked.Add(1)
	if v.down.Load() {
		return fmt.Errorf("it does not answer: %w", provisioner.ErrUnavailable)
	}
	if spec.Cores > 6 {
		return fmt.Errorf("%d cores are more than there are: %w", spec.Cores, provisioner.ErrInvalid)
	}
	if p := v.problem.Load(); p != nil {
		return fmt.Errorf("%s: %w", *p, provisioner.ErrInvalid)
	}
	return nil
}

// What a backend lacks for a profile is told before anything is recorded or made,
// until it has said once that it lacks nothing, and anew when the profile changes.
func TestProfileIsVetted(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		v := &vetted{world: l.world}
		l.restartWith(map[string]provisioner.Provisioner{"mem": v})
		ctx := as(t, "alice")
		refused := func(req sessions.CreateRequest, want string, kinds sessions.Kind) {
			t.Helper()
			_, _, err := l.Create(ctx, req)
			if k, msg := kind(t, err); k != kinds || !strings.Contains(msg, want) || strings.Contains(msg, "invalid machine spec") {
				t.Errorf("Create: %v %q, want %q", k, msg, want)
			}
		}
		v.problem.Store(new("there is no template x"))
		refused(sessions.CreateRequest{}, "profile small can't be used now: there is no template x\n", sessions.Unavailable)
		if st, err := l.Status(ctx); err != nil || len(st.Unusable) != 2 || st.Unusable[0].Problem != "there is no template x" {
			t.Errorf("Status: %+v, %v", st.Unusable, err)
		}
		refused(sessions.CreateRequest{Profile: "other"}, `its backend "none" is not configured on the server, whose daemon must be started again`, sessions.Unavailable)
		v.problem.Store(nil)
		l.create(t, sessions.CreateRequest{})
		asked := v.asked.Load()
		v.problem.Store(new("there is no template y"))
		l.create(t, sessions.CreateRequest{})
		l.set(func(p *sessions.Profile) { p.Description = "same machines" })
		if v.asked.Load() != asked {
			t.Error("it was asked again what it had answered")
		}
		refused(sessions.CreateRequest{}, "there is no template y", sessions.Unavailable)
		v.problem.Store(nil)
		refused(sessions.CreateRequest{Cores: 7}, "profile small makes no such sandbox: 7 cores are more than there are", sessions.Invalid)
		v.down.Store(true) // which is no fault of the sizes that are asked for
		refused(sessions.CreateRequest{Cores: 5}, "profile small can't be used now: it does not answer", sessions.Unavailable)
		v.down.Store(false)
		v.problem.Store(new("there is no template z"))
		refused(sessions.CreateRequest{Cores: 5}, "profile small can't be used now: there is no template z", sessions.Unavailable)
		if list, err := l.db.List(ctx, sessions.Query{Ending: true}); err != nil || len(list) != 2 {
			t.Errorf("%d are recorded, %v; want those two that were made", len(list), err)
		}
	})
}

// Whoever creates, extends, lists or waits while profiles change gets what one of
// them says, and nothing that no profile ever said.
func TestProfilesChangeUnderLoad(t *testing.T) {
	inPool(t, sessions.Pool{Size: 3, Burst: 3}, func(t *testing.T, l *lab) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		change := func(i int) {
			l.set(func(p *sessions.Profile) {
				p.MemoryMB, p.DiskMB, p.MaxMemoryMB = 100+i%3, 1000+i%3, 400
				p.Root, p.Pool.Size, p.IdleTimeout = fmt.Sprint("/r", i%2), i%4, time.Duration(i%2)*time.Hour
			})
		}
		change(0)
		wg.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				change(i)
				time.Sleep(7 * time.Millisecond)
			}
		})
		for n := range 8 {
			wg.Go(func() {
				ctx := as(t, fmt.Sprint("user", n))
				for range 20 {
					sb, _, err := l.Create(ctx, sessions.CreateRequest{Wait: time.Minute})
					if err != nil || sb.State != sessions.Ready || sb.DiskMB != sb.MemoryMB+900 {
						t.Errorf("Create: %+v, %v", sb, err)
						return
					}
					if _, err := l.Extend(ctx, sb.ID, 30*time.Minute); err != nil {
						t.Error(err)
					}
					if _, err := l.Status(ctx); err != nil {
						t.Error(err)
					}
					if _, err := l.Destroy(ctx, sb.ID); err != nil {
						t.Error(err)
					}
					time.Sleep(11 * time.Millisecond)
				}
			})
		}
		go func() { time.Sleep(time.Second); close(stop) }()
		wg.Wait()
		l.set(func(p *sessions.Profile) { p.Pool.Size = 3 })
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(l.members(t, sessions.Ready)); n != 3 {
			t.Errorf("%d members at the end", n)
		}
	})
}

func TestTogether(t *testing.T) {
	list := []sessions.Unusable{{Profile: "a", Problem: "x"}, {Profile: "b", Problem: "y"}, {Profile: "c", Problem: "x"}}
	want := []sessions.Unusable{{Profile: "a, c", Problem: "x"}, {Profile: "b", Problem: "y"}}
	if got := sessions.Together(list); !slices.Equal(got, want) || list[0].Profile != "a" {
		t.Errorf("together %+v, of %+v", got, list)
	}
}
