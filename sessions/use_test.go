package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestUseSharesOneConnection(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{TTL: 3 * time.Hour})
		l.restart()
		alice := as(t, "alice")
		before := l.world.count("dial")
		use := func() {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					err := l.Use(alice, sb.ID, 0, func(_ context.Context, sb sessions.Sandbox, conn guest.Conn) error {
						if sb.State != sessions.Running && sb.State != sessions.Ready {
							t.Errorf("state %s", sb.State)
						}
						time.Sleep(time.Second)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		use()
		if n := l.world.count("dial") - before; n != 1 {
			t.Errorf("dialled %d times", n)
		}
		l.mustBe(t, sb.ID, sessions.Running)
		time.Sleep(5*time.Minute - 1)
		if n := l.world.conns(); n != 1 {
			t.Errorf("%d connections before it is idle for long", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := l.world.conns(); n != 0 {
			t.Errorf("%d connections when idle", n)
		}
		use()
		if n := l.world.count("dial") - before; n != 2 {
			t.Errorf("dialled %d times", n)
		}
		if n := strings.Count(l.events(t, sb.ID), "state alice RUNNING"); n != 1 {
			t.Errorf("%d times RUNNING", n)
		}
	})
}

func TestUseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
		l.MaxUses = 2
		l.run()
		defer l.stop()
		sb := l.create(t, sessions.CreateRequest{})
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := l.Use(as(t, "alice"), sb.ID, 0, func(context.Context, sessions.Sandbox, guest.Conn) error { <-release; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		err := l.Use(as(t, "alice"), sb.ID, 0, nothing)
		if k, msg := kind(t, err); k != sessions.Exhausted || !strings.Contains(msg, "2 calls in progress, the most there may be at a time; try again in 1 s") {
			t.Errorf("third use: %v %q", k, msg)
		}
		close(release)
		wg.Wait()
		if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
	})
}

func TestErrorsOfUse(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		use := func(err error) error {
			return l.Use(as(t, "alice"), sb.ID, 0, func(context.Context, sessions.Sandbox, guest.Conn) error { return err })
		}
		for _, tt := range []struct {
			err  error
			kind sessions.Kind
			want string
		}{
			{fmt.Errorf("x: %w", guest.ErrUnreachable), sessions.Unavailable, "may have started"},
			{fmt.Errorf("x: %w", provisioner.ErrNotFound), sessions.Unavailable, "is gone"},
			{fmt.Errorf("x: %w", sessions.Errorf(sessions.Invalid, "mine")), sessions.Invalid, "mine"},
		} {
			err := use(tt.err)
			if k, msg := kind(t, err); k != tt.kind || !strings.Contains(msg, tt.want) || !errors.Is(err, tt.err) {
				t.Errorf("%v: %v %q", tt.err, k, msg)
			}
		}
		for _, err := range []error{fs.ErrNotExist, guest.ErrNoDir, guest.ErrIsDir, context.Canceled, errors.New("other")} {
			if got := use(err); got != err { //nolint:errorlint // unchanged, not wrapped
				t.Errorf("%v became %v", err, got)
			}
		}
	})
}

func TestUseWaitsUntilReady(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "create" {
				time.Sleep(20 * time.Second)
			}
			return do()
		})
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{})
		if err != nil || sb.State != sessions.Requested && sb.State != sessions.Provisioning {
			t.Fatalf("Create: %+v, %v", sb, err)
		}
		err = l.Use(as(t, "alice"), sb.ID, 10*time.Second, nothing)
		if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "still being made (PROVISIONING)") {
			t.Errorf("Use: %v %q", k, msg)
		}
		_, err = l.Extend(as(t, "alice"), sb.ID, time.Hour)
		if k, msg := kind(t, err); k != sessions.Conflict || !strings.Contains(msg, "still being made") {
			t.Errorf("Extend: %v %q", k, msg)
		}
		if err := l.Use(as(t, "alice"), sb.ID, time.Minute, nothing); err != nil {
			t.Error(err)
		}
	})
}

// Whoever uses a sandbox that is destroyed hears that, and not what broke.
func TestUseOfASandboxThatIsDestroyed(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		used := make(chan error)
		go func() {
			used <- l.Use(as(t, "alice"), sb.ID, 0, func(ctx context.Context, _ sessions.Sandbox, _ guest.Conn) error {
				<-ctx.Done()
				return guest.ErrUnreachable
			})
		}()
		synctest.Wait()
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Fatal(err)
		}
		if k, msg := kind(t, <-used); k != sessions.NotFound || !strings.Contains(msg, "ended just now (destroyed by its owner)") {
			t.Errorf("Use: %v %q", k, msg)
		}
		synctest.Wait()
		if n := l.world.conns(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
}

// A guest that does not answer is dialled again by the next one who asks.
func TestFailedDialIsNotKept(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.restart()
		l.world.fail("dial", guest.ErrUnreachable)
		err := l.Use(as(t, "alice"), sb.ID, 0, nothing)
		if k, _ := kind(t, err); k != sessions.Unavailable {
			t.Errorf("Use: %v", err)
		}
		l.world.onStep(nil)
		if err := l.Use(as(t, "alice"), sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
	})
}
