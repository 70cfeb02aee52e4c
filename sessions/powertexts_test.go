package sessions_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Who wants to use a machine that is not on is told what to do first.
func TestUseOfWhatIsOff(t *testing.T) {
	for state, tt := range map[sessions.State]struct {
		turn func(l *powerLab, ctx context.Context, id string)
		kind sessions.Kind
		says string
	}{
		sessions.Stopped: {
			func(l *powerLab, ctx context.Context, id string) { _, _ = l.Stop(ctx, id, time.Minute) },
			sessions.Conflict, "start it with start_sandbox, its files are there then",
		},
		sessions.Suspended: {
			func(l *powerLab, ctx context.Context, id string) { _, _ = l.Pause(ctx, id) },
			sessions.Conflict, "let it go on with start_sandbox",
		},
		sessions.Stopping: {
			func(l *powerLab, ctx context.Context, id string) {
				l.world.hang("stop", id)
				_, _ = l.Stop(ctx, id, 0)
			},
			sessions.Conflict, "start it with start_sandbox when it is STOPPED",
		},
		sessions.Starting: {
			func(l *powerLab, ctx context.Context, id string) {
				_, _ = l.Stop(ctx, id, time.Minute)
				l.world.hang("start", id)
				_, _ = l.Start(ctx, id, 0)
			},
			sessions.Unavailable, "try again, or wait for it with list_sandboxes",
		},
	} {
		t.Run(string(state), func(t *testing.T) {
			inPowerLab(t, func(t *testing.T, l *powerLab) {
				ctx := as(t, "alice")
				sb := l.create(t, sessions.CreateRequest{})
				tt.turn(l, ctx, sb.ID)
				if got := l.recorded(t, sb.ID).State; got != state {
					t.Fatalf("it is %s", got)
				}
				k, says := kind(t, l.Use(ctx, sb.ID, 0, nothing))
				if k != tt.kind || !strings.Contains(says, string(state)) || !strings.HasSuffix(says, tt.says) {
					t.Errorf("%s: %s", k, says)
				}
			})
		})
	}
}

// Nothing is switched whose time is up, though nobody has come to end it yet.
func TestNothingIsSwitchedPastItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "agentlab.db"))
		l.Backends = map[string]provisioner.Provisioner{"mem": switchable{l.world}}
		var ahead atomic.Int64
		l.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		l.run()
		defer func() { l.stop() }()
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		ahead.Store(int64(2 * time.Hour))
		for name, call := range map[string]func() (sessions.Sandbox, error){
			"stop":   func() (sessions.Sandbox, error) { return l.Stop(ctx, sb.ID, time.Minute) },
			"start":  func() (sessions.Sandbox, error) { return l.Start(ctx, sb.ID, time.Minute) },
			"pause":  func() (sessions.Sandbox, error) { return l.Pause(ctx, sb.ID) },
			"resume": func() (sessions.Sandbox, error) { return l.Resume(ctx, sb.ID) },
			"resize": func() (sessions.Sandbox, error) { return l.Resize(ctx, sb.ID, sessions.Size{Cores: 1}) },
		} {
			if k, says := kind(t, second(call())); k != sessions.NotFound || !strings.Contains(says, "(ttl)") {
				t.Errorf("%s: %s: %s", name, k, says)
			}
		}
		for _, op := range []string{"stop", "start", "pause", "resume", "resize"} {
			if l.world.count(op) > 0 {
				t.Errorf("the backend was asked to %s it", op)
			}
		}
	})
}

// Whoever waits for a machine to be switched is told the truth of why they wait no more.
func TestWhyAWaitForPowerEnds(t *testing.T) {
	for name, op := range map[string]string{"stopping": "stop", "starting": "start"} {
		t.Run(name, func(t *testing.T) {
			inPowerLab(t, func(t *testing.T, l *powerLab) {
				ctx := as(t, "alice")
				sb := l.create(t, sessions.CreateRequest{TTL: 5 * time.Minute})
				turn := l.Stop
				if op == "start" {
					_, _ = l.Stop(ctx, sb.ID, time.Minute)
					turn = l.Start
				}
				l.world.hang(op, sb.ID)
				brief, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if _, err := turn(brief, sb.ID, time.Minute); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*sessions.Error)) {
					t.Errorf("who has no more time is told %v", err)
				}
				l.later(func() {
					time.Sleep(time.Second)
					_, _ = l.Destroy(ctx, sb.ID)
				})
				if k, says := kind(t, second(turn(ctx, sb.ID, time.Minute))); k != sessions.NotFound || !strings.Contains(says, "destroyed by its owner") {
					t.Errorf("when it is destroyed: %s: %s", k, says)
				}
				<-l.done
			})
		})
	}
}

// Who waits while the server ends, or comes then, is told that, and not that anything
// went wrong: the next one goes on with it.
func TestSwitchingWhileTheServerEnds(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		l.world.hang("stop", sb.ID)
		var waiting error
		l.later(func() { waiting = second(l.Stop(ctx, sb.ID, time.Minute)) })
		l.End()
		<-l.done
		for when, err := range map[string]error{"waits": waiting, "comes": second(l.Stop(ctx, sb.ID, time.Minute))} {
			if k, says := kind(t, err); k != sessions.Unavailable || !strings.HasPrefix(says, "the server is stopping") {
				t.Errorf("who %s is told %s: %s", when, k, says)
			}
		}
		l.world.onStep(nil)
	})
}

// Two who ask for the same wait for one and the same, also if it fails.
func TestTwoSwitchOff(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		fail := make(chan struct{})
		l.world.onStep(func(_ context.Context, op, _ string, do func() error) error {
			if op != "stop" {
				return do()
			}
			<-fail
			return provisioner.ErrUnavailable
		})
		var told [2]error
		var wg sync.WaitGroup
		for i := range told {
			wg.Go(func() { told[i] = second(l.Stop(ctx, sb.ID, time.Minute)) })
			synctest.Wait()
		}
		close(fail)
		wg.Wait()
		for _, err := range told {
			if k, says := kind(t, err); k != sessions.Unavailable {
				t.Errorf("%s: %s", k, says)
			}
		}
		if n := l.world.count("stop"); n != 1 {
			t.Errorf("it was stopped %d times", n)
		}
		l.world.onStep(nil)
	})
}

// A look whether a machine answers that somebody else has switched on, and off
// again, holds nobody up who starts it.
func TestStartWhileItIsLookedAt(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		looked, started := make(chan struct{}), make(chan struct{})
		look, start := sync.OnceFunc(func() { close(looked) }), sync.OnceFunc(func() { close(started) })
		l.world.onStep(func(ctx context.Context, op, _ string, do func() error) error {
			switch op {
			case "dial":
				look()
				select {
				case <-started:
				case <-ctx.Done():
					return ctx.Err()
				}
			case "start":
				defer start()
			}
			return do()
		})
		l.world.behind(sb.ID, true)
		<-looked
		l.world.behind(sb.ID, false)
		begun := time.Now()
		if got, err := l.Start(ctx, sb.ID, time.Minute); err != nil || got.State != sessions.Ready || time.Since(begun) > time.Second {
			t.Errorf("Start: %+v, %v after %v", got, err, time.Since(begun))
		}
	})
}

// One that is SUSPENDED may run, if its pause failed or a crash came in between: it
// can be paused again.
func TestPauseAgain(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("pause", provisioner.ErrUnavailable)
		if k, says := kind(t, second(l.Pause(ctx, sb.ID))); k != sessions.Unavailable || !strings.Contains(says, "Pause it again") {
			t.Errorf("%s: %s", k, says)
		}
		l.world.onStep(nil)
		before := l.world.count("pause")
		if got, err := l.Pause(ctx, sb.ID); err != nil || got.State != sessions.Suspended || l.world.count("pause") != before+1 {
			t.Errorf("Pause: %+v, %v; its machine was held still %d times", got, err, l.world.count("pause")-before)
		}
	})
}

// Whoever lets a sandbox go on whose time is up meanwhile is told that.
func TestResumeOfWhatEnds(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{TTL: time.Minute})
		if _, err := l.Pause(ctx, sb.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		l.world.hang("dial", sb.ID)
		if k, says := kind(t, second(l.Resume(ctx, sb.ID))); k != sessions.NotFound || !strings.Contains(says, "(ttl)") {
			t.Errorf("%s: %s", k, says)
		}
		l.world.onStep(nil)
	})
}
