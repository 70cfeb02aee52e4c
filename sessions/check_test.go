package sessions_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// checked is a backend that says whether it can be used.
type checked struct {
	*world
	asked atomic.Int32
	check atomic.Pointer[func(context.Context) error]
}

func (c *checked) Check(ctx context.Context) error {
	c.asked.Add(1)
	return (*c.check.Load())(ctx)
}

func (c *checked) answer(f func(context.Context) error) { c.check.Store(&f) }

// A backend that can't be used says so before anything is recorded, keeps no
// other from working, and works as soon as it is mended.
func TestBrokenBackend(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		broken := &checked{world: &world{}}
		l.restartWith(map[string]provisioner.Provisioner{"mem": l.world, "none": broken})
		for name, tt := range map[string]struct {
			check func(context.Context) error
			want  string
		}{
			"missing": {func(context.Context) error { return fmt.Errorf("pool x is missing: %w", provisioner.ErrUnavailable) }, "profile other can't be used now: pool x is missing\n"},
			"hangs":   {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "no answer within 20s"},
		} {
			broken.answer(tt.check)
			_, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Profile: "other"})
			if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, tt.want) || !strings.Contains(msg, "nothing needs to be restarted") {
				t.Errorf("%s: %v %q, want %q", name, k, msg, tt.want)
			}
		}
		list, err := l.db.List(t.Context(), sessions.Query{Ending: true})
		if err != nil || len(list) != 0 {
			t.Errorf("recorded: %v, %v, want nothing", list, err)
		}
		l.create(t, sessions.CreateRequest{Profile: "small"})

		broken.answer(func(context.Context) error { return nil })
		asked := broken.asked.Load()
		for range 2 {
			l.create(t, sessions.CreateRequest{Profile: "other"})
		}
		if n := broken.asked.Load() - asked; n != 1 {
			t.Errorf("a backend that works was asked %d times, want once", n)
		}
	})
}

// Whoever gives up waiting for a check is not told that the backend is broken.
func TestCheckEndsWithItsCaller(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		slow := &checked{world: &world{}}
		slow.answer(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		l.restartWith(map[string]provisioner.Provisioner{"mem": l.world, "none": slow})
		ctx, cancel := context.WithTimeout(as(t, "alice"), time.Second)
		defer cancel()
		_, _, err := l.Create(ctx, sessions.CreateRequest{Profile: "other"})
		if err == nil || strings.Contains(err.Error(), "can't be used") || ctx.Err() == nil {
			t.Errorf("Create: %v, want what its caller's context says", err)
		}
	})
}

// A backend gets as many creates at once as it is said to take, and no more.
func TestParallel(t *testing.T) {
	for want, parallel := range map[int]map[string]int{8: nil, 20: {"mem": 20}} {
		inLab(t, func(t *testing.T, l *lab) {
			l.stop()
			*l = *newLab(t, l.world, l.path)
			l.Parallel = parallel
			l.run()
			var creating atomic.Int32
			l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
				if op == "create" {
					creating.Add(1)
					<-ctx.Done()
					return ctx.Err()
				}
				return do()
			})
			for range 30 {
				if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if got := int(creating.Load()); got != want {
				t.Errorf("%d creates at once, want %d", got, want)
			}
		})
	}
}

// Who asks while a backend is being asked waits for the same answer.
func TestCheckOfABurst(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		slow := &checked{world: &world{}}
		slow.answer(func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		l.restartWith(map[string]provisioner.Provisioner{"mem": l.world, "none": slow})
		var burst sync.WaitGroup
		for range 100 {
			burst.Go(func() {
				if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Profile: "other"}); err != nil {
					t.Error(err)
				}
			})
		}
		burst.Wait()
		if n := slow.asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
	})
}
