package sessions_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// inLine runs a test as inLab does, with a backend that makes one machine at a
// time and takes that long for each.
func inLine(t *testing.T, each time.Duration, f func(t *testing.T, l *lab), edits ...func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{step: func(ctx context.Context, op, _ string, do func() error) error {
			if op == "create" {
				select {
				case <-time.After(each):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return do()
		}}
		l := newLab(t, w, filepath.Join(t.TempDir(), "agentlab.db"))
		l.Parallel, l.MaxLine, l.MaxOwnLine = map[string]int{"mem": 1}, 5, 5
		for _, edit := range edits {
			edit(l)
		}
		l.run()
		defer func() { l.stop() }()
		f(t, l)
	})
}

// ask asks for a sandbox and does not wait for it.
func (l *lab) ask(t *testing.T, who string) sessions.Sandbox {
	t.Helper()
	sb, _, err := l.Create(as(t, who), sessions.CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// Whoever asks for many makes another wait for one of them, and all are told
// which number they have.
func TestCreatesTakeTurns(t *testing.T) {
	inLine(t, time.Second, func(t *testing.T, l *lab) {
		first := l.ask(t, "alice")
		synctest.Wait()
		second, third := l.ask(t, "alice"), l.ask(t, "alice")
		var mu sync.Mutex
		var places []int
		began := time.Now()
		_, _, err := l.Create(as(t, "bob"), sessions.CreateRequest{Wait: time.Minute, Step: func(s sessions.State, place int) {
			mu.Lock()
			defer mu.Unlock()
			places = append(places, place)
			if place == 2 {
				for id, want := range map[string]int{first.ID: 0, second.ID: 1, third.ID: 3} {
					if got := l.Place(id); got != want {
						t.Errorf("place %d of %s, want %d", got, id, want)
					}
				}
			}
		}})
		if err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("Create: %v after %v, want 3 s", err, time.Since(began))
		}
		if got := slices.Compact(places); !slices.Equal(got, []int{2, 1, 0}) {
			t.Errorf("told the places %v", got)
		}
		synctest.Wait()
		l.mustBe(t, second.ID, sessions.Ready)
		if got := l.recorded(t, third.ID).State; got != sessions.Provisioning {
			t.Errorf("third is %s", got)
		}
	})
}

// Standing in line uses up none of the time that the making may take, also when
// the server is started again meanwhile.
func TestLongLine(t *testing.T) {
	inLine(t, 4*time.Minute, func(t *testing.T, l *lab) {
		first, second, third, last := l.ask(t, "alice"), l.ask(t, "alice"), l.ask(t, "alice"), l.ask(t, "alice")
		time.Sleep(12*time.Minute + 1)
		for _, sb := range []sessions.Sandbox{first, second, third} {
			l.mustBe(t, sb.ID, sessions.Ready)
		}
		if got := l.recorded(t, last.ID).State; got != sessions.Provisioning {
			t.Errorf("the last is %s", got)
		}
		time.Sleep(4 * time.Minute)
		l.mustBe(t, last.ID, sessions.Ready)

		l.ask(t, "alice")
		synctest.Wait()
		waits := l.ask(t, "alice")
		l.stop()
		time.Sleep(6 * time.Minute)
		l.restart()
		time.Sleep(5 * time.Minute)
		l.mustBe(t, waits.ID, sessions.Ready)
	})
}

// One whose turn came late is not late itself when a crash comes.
func TestRestartCountsFromTheTurn(t *testing.T) {
	inLine(t, 4*time.Minute, func(t *testing.T, l *lab) {
		l.ask(t, "alice")
		synctest.Wait()
		late := l.ask(t, "alice")
		time.Sleep(6 * time.Minute) // the second two of them are its own
		if sb := l.recorded(t, late.ID); sb.State != sessions.Provisioning || sb.Begun.Sub(sb.Created) != 4*time.Minute {
			t.Fatalf("%s, begun %v after it was asked for", sb.State, sb.Begun.Sub(sb.Created))
		}
		l.restart()
		time.Sleep(5 * time.Minute)
		l.mustBe(t, late.ID, sessions.Ready)
	})
}

func TestFullLineIsRefused(t *testing.T) {
	inLine(t, time.Minute, func(t *testing.T, l *lab) {
		l.ask(t, "alice")
		synctest.Wait()
		named := sessions.CreateRequest{Name: "web"}
		own, _, err := l.Create(as(t, "alice"), named)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			l.ask(t, "alice")
		}
		if again, existing, err := l.Create(as(t, "alice"), named); err != nil || !existing || again.ID != own.ID {
			t.Errorf("what stands in line already is answered with %+v, %v", again, err)
		}
		_, _, err = l.Create(as(t, "bob"), named)
		if k, msg := kind(t, err); k != sessions.Exhausted || !strings.Contains(msg, "5 sandboxes wait to be made, the most that may; try again") {
			t.Errorf("Create: %v %q", k, msg)
		}
		if u, err := l.db.Usage(t.Context(), "bob"); err != nil || u.Sandboxes != 0 {
			t.Errorf("a refused create is recorded: %v, %v", u, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait() // one less
		l.ask(t, "bob")
	})
}
