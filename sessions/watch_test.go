package sessions_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

func (w *told) Stepped(backend, step, outcome string, took time.Duration) {
	w.tell("%s %s %s %v", backend, step, outcome, took)
}

func (w *told) Moved(backend string, to sessions.State) { w.tell("%s %s", backend, to) }

func (w *told) Ended(backend string, to sessions.State, lived time.Duration) {
	w.tell("%s ended %s %v", backend, to, lived)
}

func (w *told) Destroyed(string, string, time.Duration) {}

func (w *told) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, fmt.Sprintf(format, args...))
}

// Who watches is told each step, each state and how long it all went on.
func TestLifeIsTold(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.stop()
		var count told
		*l = *newLab(t, l.world, l.path)
		l.Watch = &count
		l.run()
		sb := l.create(t, sessions.CreateRequest{})
		time.Sleep(time.Minute)
		if _, err := l.Destroy(as(t, "alice"), sb.ID); err != nil {
			t.Fatal(err)
		}
		l.world.fail("create", errors.New("broken"))
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Minute}); err == nil {
			t.Fatal("made of a broken backend")
		}
		synctest.Wait()
		want := []string{
			"mem wait ok 0s", "mem PROVISIONING", "mem BOOTING", "mem provision ok 0s", "mem boot ok 0s", "mem READY",
			"mem DESTROYING", "mem ended DESTROYING 1m0s", "mem DESTROYED",
			"mem wait ok 0s", "mem PROVISIONING", "mem provision failed 0s", "mem FAILED", "mem ended FAILED 0s", "mem DESTROYED",
		}
		if diff := cmp.Diff(want, count.all); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// A step that a stop interrupts has not ended.
func TestInterruptedStepIsNotTold(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.stop()
		var count told
		*l = *newLab(t, l.world, l.path)
		l.Watch = &count
		l.world.hang("create", "")
		l.run()
		if _, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		load := l.Load()
		l.stop()
		if diff := cmp.Diff([]string{"mem wait ok 0s", "mem PROVISIONING"}, count.all); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]sessions.Load{{Backend: "mem", Free: 7}}, load); diff != "" {
			t.Errorf("load while one is made (-want +got):\n%s", diff)
		}
	})
}
