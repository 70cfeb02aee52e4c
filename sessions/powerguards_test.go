package sessions_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Who gives up a resize gets around no quota: it goes on, and the larger memory
// counts until it is done.
func TestResizeIsNotCutShort(t *testing.T) {
	for name, memory := range map[string]int{"bigger": 300, "smaller": 64} {
		t.Run(name, func(t *testing.T) {
			inPowerLab(t, func(t *testing.T, l *powerLab) {
				sb := l.create(t, sessions.CreateRequest{})
				ctx, cancel := context.WithCancel(as(t, "alice"))
				if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
					t.Fatal(err)
				}
				l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
					if op != "resize" {
						return do()
					}
					cancel()
					if got := l.recorded(t, sb.ID).MemoryMB; got != max(memory, sb.MemoryMB) {
						t.Errorf("while it is resized it counts %d MB", got)
					}
					if ctx.Err() != nil {
						return ctx.Err()
					}
					return do()
				})
				_, _ = l.Resize(ctx, sb.ID, sessions.Size{MemoryMB: memory}) // nobody hears it
				mach, _ := l.world.machine(sb.ID)
				if got := l.recorded(t, sb.ID).MemoryMB; got != memory || mach.Papers.MemoryMB != memory {
					t.Errorf("it is recorded with %d MB, and its papers with %d", got, mach.Papers.MemoryMB)
				}
			})
		})
	}
}

// If it is not known what a backend has done, the larger memory counts.
func TestResizeOfUnknownOutcome(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		l.world.fail("resize", provisioner.ErrUnavailable)
		for _, memory := range []int{64, 300, 64} {
			before := l.recorded(t, sb.ID)
			if k, _ := kind(t, second(l.Resize(ctx, sb.ID, sessions.Size{Cores: 4, MemoryMB: memory}))); k != sessions.Unavailable {
				t.Errorf("Resize: %v", k)
			}
			if got := l.recorded(t, sb.ID); got.MemoryMB != max(memory, before.MemoryMB) || got.Cores != sb.Cores {
				t.Errorf("resized from %d to %d MB, it is recorded with %d MB and %d cores", before.MemoryMB, memory, got.MemoryMB, got.Cores)
			}
		}
	})
}

// One that somebody else has paused goes on when it is started, although its
// record says that it can be used.
func TestStartOfWhatOthersHavePaused(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		sb := l.create(t, sessions.CreateRequest{})
		if got, err := l.Start(as(t, "alice"), sb.ID, time.Minute); err != nil || got.State != sessions.Ready || l.world.count("resume") != 1 {
			t.Errorf("Start: %+v, %v; it was resumed %d times", got, err, l.world.count("resume"))
		}
	})
}

// A start does not come in between the record of a pause and the pause.
func TestPauseAndStartAtOnce(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op == "pause" {
				l.later(func() { _, _ = l.Start(ctx, sb.ID, time.Minute) })
				if n := l.world.count("resume"); n > 0 {
					t.Error("it is resumed while it is paused")
				}
			}
			return do()
		})
		if _, err := l.Pause(ctx, sb.ID); err != nil {
			t.Error(err)
		}
		<-l.done
		l.wantPower(t, sb.ID, sessions.Ready, true)
	})
}

// Two looks that see different things agree on nothing.
func TestLooksMustAgree(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.behind(sb.ID, false)
		n := 0
		var third sessions.State
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op != "list" {
				return do()
			}
			switch n++; n {
			case 2:
				l.world.mu.Lock()
				delete(l.world.machines, sb.ID)
				l.world.mu.Unlock()
			case 3:
				third = l.recorded(t, sb.ID).State
			}
			return do()
		})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if third != sessions.Ready {
			t.Errorf("it is %s when it was seen to be off once, and to be gone once", third)
		}
		if got := l.recorded(t, sb.ID).State; got.Live() {
			t.Errorf("it is %s when it was seen to be gone again", got)
		}
	})
}

// A reason that quotes a secret is recorded without it.
func TestReasonsAreMasked(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		l.world.fail("start", sessions.Errorf(sessions.Unavailable, "it said ghp_0123456789abcdefABCD"))
		if _, err := l.Start(ctx, sb.ID, time.Minute); err == nil {
			t.Error("it was started")
		}
		if events := l.events(t, sb.ID); !strings.Contains(events, "could not be started: it said [redacted]") || strings.Contains(events, "ghp_") {
			t.Errorf("events:\n%s", events)
		}
	})
}
