package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestCreate(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		start := time.Now().UTC()
		sb := l.create(t, sessions.CreateRequest{Name: "web", TTL: 2 * time.Hour})
		mach, _ := l.world.machine(sb.ID)
		want := provisioner.Papers{
			Instance: "i", Sandbox: sb.ID, Owner: "alice", Name: "web", Profile: "small",
			Created: start, End: start.Add(2 * time.Hour), MaxEnd: start.Add(4 * time.Hour), MemoryMB: 100,
		}
		if diff := cmp.Diff(want, mach.Papers); diff != "" {
			t.Errorf("papers (-want +got):\n%s", diff)
		}
		if sb.Home != "/workspace" || sb.Handle != mach.Handle || !strings.HasPrefix(sb.ID, "sb-") || len(sb.ID) != 23 {
			t.Errorf("sandbox %+v", sb)
		}
		if n, err := l.Active(t.Context()); n != 1 || err != nil {
			t.Errorf("Active = %d, %v", n, err)
		}
	})
}

func TestCreateValidates(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		for name, tt := range map[string]struct {
			req  sessions.CreateRequest
			want string
		}{
			"profile":      {sessions.CreateRequest{Profile: "big"}, `profile is "big", allowed: small, other`},
			"name":         {sessions.CreateRequest{Name: "A b"}, `name is "A b", allowed: 1 to 40 characters a-z, 0-9 and -`},
			"long-name":    {sessions.CreateRequest{Name: strings.Repeat("a", 41)}, "allowed: 1 to 40"},
			"name-newline": {sessions.CreateRequest{Name: "a\n"}, "allowed: 1 to 40"},
			"ttl-short":    {sessions.CreateRequest{TTL: time.Second}, "ttl_seconds is 1, allowed: 60 to 14400"},
			"ttl-long":     {sessions.CreateRequest{TTL: 5 * time.Hour}, "ttl_seconds is 18000, allowed: 60 to 14400"},
			"ttl-negative": {sessions.CreateRequest{TTL: -time.Hour}, "allowed: 60 to 14400"},
			"cpu":          {sessions.CreateRequest{Cores: 9}, "cpu is 9, allowed: 1 to 8"},
			"cpu-negative": {sessions.CreateRequest{Cores: -1}, "cpu is -1, allowed: 1 to 8"},
			"memory":       {sessions.CreateRequest{MemoryMB: 401}, "memory_mb is 401, allowed: 64 to 400"},
			"disk":         {sessions.CreateRequest{DiskMB: 100 << 10}, "disk_gb is 100, allowed: 0.0156 to 16"},
			"network":      {sessions.CreateRequest{Network: "internet"}, `network is "internet", allowed by profile small: none`},
		} {
			_, _, err := l.Create(as(t, "alice"), tt.req)
			if k, msg := kind(t, err); k != sessions.Invalid || !strings.Contains(msg, tt.want) {
				t.Errorf("%s: %v %q, want %q", name, k, msg, tt.want)
			}
		}
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Profile: "other"}); err == nil {
			t.Error("a profile without a backend made a sandbox")
		}
		if _, _, err := l.Create(t.Context(), sessions.CreateRequest{}); err == nil {
			t.Error("nobody made a sandbox")
		}
		if n := l.world.count("create"); n != 0 {
			t.Errorf("%d machines were made", n)
		}
	})
}

func TestCreateByNameIsIdempotent(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var mu sync.Mutex
		ids, fresh := map[string]bool{}, 0
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				sb, existing, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web", Wait: time.Minute})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || sb.State != sessions.Ready {
					t.Errorf("Create: %+v, %v", sb, err)
				}
				ids[sb.ID] = true
				if !existing {
					fresh++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || fresh != 1 || l.world.count("create") != 1 {
			t.Errorf("%d sandboxes, %d fresh, %d machines made", len(ids), fresh, l.world.count("create"))
		}
		if _, existing, err := l.Create(as(t, "bob"), sessions.CreateRequest{Name: "web"}); existing || err != nil {
			t.Errorf("bob got another's: existing %v, %v", existing, err)
		}
	})
}

func TestQuotaErrorListsOwnSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.Quota = sessions.Quota{Sandboxes: 2, MemoryMB: 250}
		l.run()
		defer l.stop()
		a := l.create(t, sessions.CreateRequest{Name: "web"})
		if _, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{}); err != nil {
			t.Fatal(err)
		}
		_, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{MemoryMB: 200})
		if k, msg := kind(t, err); k != sessions.Exhausted || !strings.Contains(msg, "100 of 250 MB of memory in use, 200 MB more asked for") {
			t.Errorf("over memory: %v %q", k, msg)
		}
		b := l.create(t, sessions.CreateRequest{})
		_, _, err = l.Create(as(t, "alice"), sessions.CreateRequest{})
		k, msg := kind(t, err)
		for _, want := range []string{"2 of 2 sandboxes in use", a.ID + " (web) ready", b.ID, "destroy"} {
			if k != sessions.Exhausted || !strings.Contains(msg, want) {
				t.Errorf("over count: %v %q, want %q", k, msg, want)
			}
		}
	})
}

// The limits of a token come before those of the installation, wider or
// narrower, each by itself.
func TestQuotaOfThePrincipal(t *testing.T) {
	for _, tt := range []struct {
		name string
		own  sessions.Quota
		made int // of 100 MB each
		want string
	}{
		{"none", sessions.Quota{}, 2, "2 of 2 sandboxes in use"},
		{"narrower", sessions.Quota{Sandboxes: 1}, 1, "1 of 1 sandboxes in use"},
		{"wider", sessions.Quota{Sandboxes: 4}, 3, "300 of 350 MB of memory in use, 100 MB more asked for"},
		{"memory", sessions.Quota{MemoryMB: 150}, 1, "100 of 150 MB of memory in use, 100 MB more asked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
				l.Quota = sessions.Quota{Sandboxes: 2, MemoryMB: 350}
				l.run()
				defer l.stop()
				ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "alice", Quota: tt.own})
				made := 0
				for ; ; made++ {
					_, _, err := l.Create(ctx, sessions.CreateRequest{Wait: time.Minute})
					if err == nil && made < 10 {
						continue
					}
					if k, msg := kind(t, err); k != sessions.Exhausted || !strings.Contains(msg, tt.want) || !strings.Contains(msg, "Destroy one with destroy, or try again in ") {
						t.Errorf("error %v %q, want %s", k, msg, tt.want)
					}
					break
				}
				if made != tt.made {
					t.Errorf("made %d, want %d", made, tt.made)
				}
			})
		})
	}
}

// The making goes on without the caller.
func TestCreateOutlivesItsCaller(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" {
				time.Sleep(10 * time.Second)
			}
			return do()
		})
		ctx, cancel := context.WithTimeout(as(t, "alice"), time.Second)
		defer cancel()
		gone, _, err := l.Create(ctx, sessions.CreateRequest{Wait: time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Create whose caller went: %v", err)
		}
		short, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil || short.State != sessions.Provisioning {
			t.Fatalf("Create with a short wait: %+v, %v", short, err)
		}
		for _, id := range []string{gone.ID, short.ID} {
			if sb, err := l.Get(as(t, "alice"), id, time.Minute); err != nil || sb.State != sessions.Ready {
				t.Errorf("Get: %+v, %v", sb, err)
			}
		}
	})
}

// Who waits is told how far the making is.
func TestCreateTellsItsSteps(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.onStep(func(_ context.Context, _, _ string, do func() error) error {
			time.Sleep(time.Second)
			return do()
		})
		var told []sessions.State
		step := func(s sessions.State, _ int) { told = append(told, s) }
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Minute, Step: step}); err != nil {
			t.Fatal(err)
		}
		told = slices.Compact(told)
		for _, want := range []sessions.State{sessions.Provisioning, sessions.Booting} {
			if !slices.Contains(told, want) {
				t.Errorf("told %v, want %s too", told, want)
			}
		}
	})
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		op   string
		err  error
		kind sessions.Kind
		want string
	}{
		"invalid":     {"create", fmt.Errorf("root: %w", provisioner.ErrInvalid), sessions.Invalid, "root"},
		"no-room":     {"create", fmt.Errorf("disk: %w", provisioner.ErrExhausted), sessions.Exhausted, "no room"},
		"unavailable": {"create", fmt.Errorf("install runsc: %w", provisioner.ErrUnavailable), sessions.Unavailable, "install runsc"},
		"internal":    {"create", errors.New("secret 10.0.0.1"), sessions.Internal, ""},
		"dial":        {"dial", guest.ErrUnreachable, sessions.Unavailable, "did not boot"},
		"run":         {"run", guest.ErrUnreachable, sessions.Unavailable, "did not boot"},
		"no-command":  {"run", guest.ErrNoCommand, sessions.Unavailable, `the root of profile small has no program "true"`},
		"slow-step":   {"create", fmt.Errorf("runsc: %w", context.DeadlineExceeded), sessions.Unavailable, "a step of it took too long"},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				l.world.fail(tt.op, tt.err)
				_, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web", Wait: time.Minute})
				k, msg := kind(t, err)
				if k != tt.kind || !strings.Contains(msg, tt.want) || strings.Contains(msg, "10.0.0.1") || (k == sessions.Internal) != (msg == "") {
					t.Errorf("Create: %v %q", k, msg)
				}
				synctest.Wait()
				if n, err := l.Active(t.Context()); n != 0 || err != nil || len(l.world.machines) != 0 {
					t.Errorf("%d sandboxes and %d machines left, %v", n, len(l.world.machines), err)
				}
				l.world.onStep(nil)
				l.create(t, sessions.CreateRequest{Name: "web"})
			})
		})
	}
}

// The limit of one attempt to reach the guest is not that of the making.
func TestCreateAsksASlowGuestAgain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		slow := 3
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			if op == "run" && slow > 0 {
				slow--
				time.Sleep(10 * time.Second)
				return fmt.Errorf("%w: %w", guest.ErrUnreachable, context.DeadlineExceeded)
			}
			return do()
		})
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Minute})
		if err != nil || sb.State != sessions.Ready || slow != 0 {
			t.Errorf("Create: %s, %v, %d attempts left", sb.State, err, slow)
		}
	})
}

func TestCreateThatHangsFails(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.hang("create", "")
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil || sb.State != sessions.Provisioning {
			t.Fatalf("Create: %+v, %v", sb, err)
		}
		time.Sleep(5*time.Minute - 2*time.Second)
		if got := l.recorded(t, sb.ID).State; got != sessions.Provisioning {
			t.Errorf("%s before the deadline", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
		_, err = l.Get(as(t, "alice"), sb.ID, 0)
		if k, msg := kind(t, err); k != sessions.NotFound || !strings.Contains(msg, "failed") || !strings.Contains(msg, "not ready") {
			t.Errorf("Get: %v %q", k, msg)
		}
	})
}
