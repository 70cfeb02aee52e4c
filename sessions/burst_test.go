package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// crowd is what a backend has seen of the creates that it was asked for.
type crowd struct {
	mu    sync.Mutex
	now   int // being made
	most  int
	began []string // ids, in their order
}

// makes makes each machine in that time.
func (c *crowd) makes(each time.Duration) func(context.Context, string, string, func() error) error {
	return func(_ context.Context, op, id string, do func() error) error {
		if op != "create" {
			return do()
		}
		c.mu.Lock()
		c.now++
		c.most = max(c.most, c.now)
		c.began = append(c.began, id)
		c.mu.Unlock()
		time.Sleep(each)
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
		return do()
	}
}

// A burst is answered at once, in line; the backend is kept busy to its limit
// and not beyond it, without a gap; and nobody has many more than another at any time.
func TestBurst(t *testing.T) {
	const (
		each     = time.Minute
		parallel = 8
		owners   = 5
		burst    = 500
		best     = (burst + parallel - 1) / parallel * each
	)
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{}
		l := newLab(t, &world{step: c.makes(each)}, filepath.Join(t.TempDir(), "db"))
		l.Parallel = map[string]int{"mem": parallel}
		l.run()
		defer func() { l.stop() }()
		var mu sync.Mutex
		owner := map[string]string{} // of a sandbox
		var all sync.WaitGroup
		for i := range burst {
			all.Go(func() {
				who := fmt.Sprint("user-", i%owners)
				sb, existing, err := l.Create(as(t, who), sessions.CreateRequest{TTL: 4 * time.Hour})
				if err != nil || existing || sb.State != sessions.Requested && sb.State != sessions.Provisioning {
					t.Errorf("Create: %s, existing %v, %v", sb.State, existing, err)
				}
				mu.Lock()
				owner[sb.ID] = who
				mu.Unlock()
			})
		}
		all.Wait()
		time.Sleep(best)
		synctest.Wait()
		list, err := l.db.List(t.Context(), sessions.Query{})
		ready := slices.DeleteFunc(list, func(sb sessions.Sandbox) bool { return sb.State != sessions.Ready })
		if err != nil || len(ready) != burst {
			t.Errorf("%d of %d are READY after the time of the best schedule, %v", len(ready), burst, err)
		}
		if c.most != parallel {
			t.Errorf("%d were made at once, want %d", c.most, parallel)
		}
		has := map[string]int{}
		for i, id := range c.began {
			has[owner[id]]++
			counts := slices.Collect(maps.Values(has))
			if i >= parallel*owners && slices.Max(counts)-slices.Min(counts) > parallel+1 { // whoever came first has all slots
				t.Fatalf("after %d: %v", i+1, has)
			}
		}
	})
}

// slow is a store that takes its time, in which others come.
type slow struct{ sessions.Store }

func (s slow) Add(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, ch sessions.Change) (sessions.Sandbox, bool, error) {
	time.Sleep(time.Second)
	return s.Store.Add(ctx, sb, quota, ch)
}

// However many come at once, the line gets no longer than it may: one is in its
// slot, and five wait.
func TestBurstThatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{step: (&crowd{}).makes(time.Minute)}, filepath.Join(t.TempDir(), "db"))
		l.Store = slow{l.Store}
		l.Parallel, l.MaxLine, l.MaxOwnLine = map[string]int{"mem": 1}, 5, 5
		l.run()
		defer func() { l.stop() }()
		var mu sync.Mutex
		in, full := 0, 0
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				_, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{})
				var e *sessions.Error
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					in++
				case errors.As(err, &e) && e.Kind == sessions.Exhausted:
					full++
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if in != 6 || full != 94 {
			t.Errorf("%d were let in and %d refused, want 6 and 94", in, full)
		}
	})
}

// One owner can't take all of the line.
func TestLineHasRoomForOthers(t *testing.T) {
	inLine(t, time.Minute, func(t *testing.T, l *lab) {
		l.MaxOwnLine = 3
		refused := func(who, why string) {
			t.Helper()
			_, _, err := l.Create(as(t, who), sessions.CreateRequest{})
			if k, msg := kind(t, err); k != sessions.Exhausted || !strings.Contains(msg, why) {
				t.Errorf("Create of %s: %v %q, want %q", who, k, msg, why)
			}
		}
		l.ask(t, "alice")
		synctest.Wait()
		for range 3 {
			l.ask(t, "alice")
		}
		refused("alice", "3 sandboxes of yours wait to be made, the most that may of one owner")
		l.ask(t, "bob")
		l.ask(t, "bob")
		refused("bob", "5 sandboxes wait to be made, the most that may")
	})
}

// Whoever goes away keeps its place, and finds its sandbox by its name; whoever
// destroys what waits gives the place back.
func TestPlaceOfOneWhoGoesAway(t *testing.T) {
	inLine(t, time.Minute, func(t *testing.T, l *lab) {
		l.ask(t, "alice")
		synctest.Wait()
		gone := l.ask(t, "alice")
		ctx, cancel := context.WithCancel(as(t, "alice"))
		time.AfterFunc(time.Second, cancel)
		if _, _, err := l.Create(ctx, sessions.CreateRequest{Name: "web", Wait: time.Hour}); !errors.Is(err, context.Canceled) {
			t.Fatalf("Create: %v", err)
		}
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{}); err == nil {
			t.Error("who went away has given its place back")
		}
		if _, err := l.Destroy(as(t, "alice"), gone.ID); err != nil {
			t.Fatal(err)
		}
		l.ask(t, "alice")
		sb, existing, err := l.Create(as(t, "alice"), sessions.CreateRequest{Name: "web", Wait: time.Hour})
		if err != nil || !existing || sb.State != sessions.Ready {
			t.Errorf("asked for again: %+v, existing %v, %v", sb, existing, err)
		}
	}, func(l *lab) { l.MaxOwnLine = 2 })
}
