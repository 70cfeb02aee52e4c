package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// switchable is a world whose machines can be switched off and on, and held still.
type switchable struct{ *world }

func (w switchable) Stop(ctx context.Context, ref provisioner.Ref) error {
	return w.set(ctx, "stop", ref, false)
}

func (w switchable) Start(ctx context.Context, ref provisioner.Ref) error {
	return w.set(ctx, "start", ref, true)
}

func (w switchable) Pause(ctx context.Context, ref provisioner.Ref) error {
	return w.do(ctx, "pause", ref.Sandbox, func() {})
}

func (w switchable) Resume(ctx context.Context, ref provisioner.Ref) error {
	return w.do(ctx, "resume", ref.Sandbox, func() {})
}

func (w switchable) Resize(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers, size provisioner.Size) error {
	return w.do(ctx, "resize", ref.Sandbox, func() {
		m := w.machines[ref.Sandbox]
		m.Papers = papers
		m.OS = fmt.Sprintf("%+v", size)
		w.machines[ref.Sandbox] = m
	})
}

func (w switchable) set(ctx context.Context, op string, ref provisioner.Ref, running bool) error {
	there := false
	err := w.do(ctx, op, ref.Sandbox, func() { there = w.turn(ref.Sandbox, running) })
	if err == nil && !there {
		return provisioner.ErrNotFound
	}
	return err
}

// turn switches a machine on or off; w.mu is held.
func (w *world) turn(id string, running bool) bool {
	m, there := w.machines[id]
	if there {
		m.Running = running
		w.machines[id] = m
	}
	return there
}

// behind switches a machine on or off behind our back.
func (w *world) behind(id string, running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn(id, running)
}

// inPowerLab is inLab with machines that can be switched.
func inPowerLab(t *testing.T, f func(t *testing.T, l *powerLab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &powerLab{lab: newLab(t, &world{}, filepath.Join(t.TempDir(), "agentlab.db"))}
		l.Backends["mem"] = switchable{l.world}
		l.run()
		defer func() { l.stop() }()
		f(t, l)
	})
}

// powerLab is a lab in which something goes on.
type powerLab struct {
	*lab
	done chan struct{} // closed when it is done
}

// later begins something, and returns when that waits.
func (l *powerLab) later(f func()) {
	l.done = make(chan struct{})
	go func() { defer close(l.done); f() }()
	synctest.Wait()
}

// reopen restarts with machines that can be switched.
func (l *lab) reopen() { l.restartWith(map[string]provisioner.Provisioner{"mem": switchable{l.world}}) }

// wantPower checks the state of a sandbox, and whether its machine runs.
func (l *lab) wantPower(t *testing.T, id string, want sessions.State, running bool) {
	t.Helper()
	sb := l.recorded(t, id)
	mach, there := l.world.machine(id)
	if sb.State != want || !there || mach.Running != running {
		t.Errorf("it is %s (%s), its machine there %v, running %v; want %s, %v", sb.State, sb.Reason, there, mach.Running, want, running)
	}
}

func TestStopAndStart(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if err := l.Use(ctx, sb.ID, 0, nothing); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing
			got, err := l.Stop(ctx, sb.ID, time.Minute)
			if err != nil || got.State != sessions.Stopped || got.Reason != "stopped by its owner" {
				t.Fatalf("Stop: %+v, %v", got, err)
			}
		}
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if mach, _ := l.world.machine(sb.ID); !mach.Papers.Stopped {
			t.Error("its papers do not say that it is off")
		}
		err := l.Use(ctx, sb.ID, time.Minute, nothing)
		if k, msg := kind(t, err); k != sessions.Conflict || !strings.Contains(msg, "is STOPPED (stopped by its owner); start it with start_sandbox") {
			t.Errorf("Use of a stopped sandbox: %v", err)
		}
		if n := l.world.conns(); n != 0 {
			t.Errorf("%d channels to a stopped machine are open", n)
		}
		if list, err := l.List(ctx); err != nil || len(list) != 1 || list[0].State != sessions.Stopped {
			t.Errorf("List: %+v, %v", list, err)
		}
		if got, err := l.Extend(ctx, sb.ID, 2*time.Hour); err != nil || got.State != sessions.Stopped {
			t.Errorf("Extend: %+v, %v", got, err)
		}
		for range 2 {
			got, err := l.Start(ctx, sb.ID, time.Minute)
			if err != nil || got.State != sessions.Ready || got.Reason != "" || !got.Ready.Equal(sb.Ready) {
				t.Fatalf("Start: %+v, %v", got, err)
			}
		}
		l.wantPower(t, sb.ID, sessions.Ready, true)
		if mach, _ := l.world.machine(sb.ID); mach.Papers.Stopped || !mach.Papers.End.Equal(l.recorded(t, sb.ID).End) {
			t.Errorf("its papers are %+v", mach.Papers)
		}
		if err := l.Use(ctx, sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
		if n := l.world.count("stop") + l.world.count("start"); n != 2 {
			t.Errorf("its machine was switched %d times", n)
		}
	})
}

// Whoever works in a sandbox is told that it was stopped.
func TestStopCutsTheLine(t *testing.T) {
	for name, stop := range map[string]func(l *powerLab, ctx context.Context, id string) (sessions.Sandbox, error){
		"STOPPING": func(l *powerLab, ctx context.Context, id string) (sessions.Sandbox, error) {
			return l.Stop(ctx, id, time.Minute)
		},
		"SUSPENDED": func(l *powerLab, ctx context.Context, id string) (sessions.Sandbox, error) { return l.Pause(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			inPowerLab(t, func(t *testing.T, l *powerLab) {
				ctx := as(t, "alice")
				sb := l.create(t, sessions.CreateRequest{})
				working := make(chan struct{})
				used := make(chan error)
				go func() {
					used <- l.Use(ctx, sb.ID, 0, func(ctx context.Context, _ sessions.Sandbox, _ guest.Conn) error {
						close(working)
						<-ctx.Done()
						return ctx.Err()
					})
				}()
				<-working
				if _, err := stop(l, ctx, sb.ID); err != nil {
					t.Fatal(err)
				}
				if k, msg := kind(t, <-used); k != sessions.Conflict || !strings.Contains(msg, "is "+name) {
					t.Errorf("whoever used it: %v %s", k, msg)
				}
			})
		})
	}
}

// A stopped or paused sandbox ends at its time, and as its owner wants.
func TestEndAtRest(t *testing.T) {
	for name, tt := range map[string]func(l *powerLab, ctx context.Context, id string) error{
		"stopped": func(l *powerLab, ctx context.Context, id string) error {
			_, err := l.Stop(ctx, id, time.Minute)
			return err
		},
		"paused": func(l *powerLab, ctx context.Context, id string) error { _, err := l.Pause(ctx, id); return err },
		"stopping": func(l *powerLab, _ context.Context, id string) error {
			l.world.hang("stop", id)
			l.later(func() { _, _ = l.Stop(as(l.t, "alice"), id, time.Minute) })
			return nil
		},
		"starting": func(l *powerLab, ctx context.Context, id string) error {
			_, err := l.Stop(ctx, id, time.Minute)
			l.world.hang("start", id)
			l.later(func() { _, _ = l.Start(as(l.t, "alice"), id, time.Minute) })
			return err
		},
	} {
		for _, how := range []string{"ttl", "destroy"} {
			t.Run(name+"-"+how, func(t *testing.T) {
				inPowerLab(t, func(t *testing.T, l *powerLab) {
					ctx := as(t, "alice")
					l.later(func() {})
					sb := l.create(t, sessions.CreateRequest{TTL: 90 * time.Second})
					if err := tt(l, ctx, sb.ID); err != nil {
						t.Fatal(err)
					}
					if state := strings.ToLower(string(l.recorded(t, sb.ID).State)); state != name && name != "paused" {
						t.Fatalf("it is %s", state)
					}
					if how == "destroy" {
						if _, err := l.Destroy(ctx, sb.ID); err != nil {
							t.Fatal(err)
						}
						<-l.done // nobody goes on with it
						if age := time.Since(sb.Created); age > time.Second {
							t.Errorf("whoever switched it was told after %v", age)
						}
					}
					time.Sleep(2 * time.Minute)
					synctest.Wait()
					l.mustBe(t, sb.ID, sessions.Destroyed)
				})
			})
		}
	}
}

// What a crash has interrupted goes on, and ends as it was asked for.
func TestSwitchingGoesOnAfterACrash(t *testing.T) {
	for _, op := range []string{"relabel", "stop", "start", "dial", "run"} {
		for _, after := range []bool{false, true} {
			name := op + map[bool]string{false: "-before", true: "-after"}[after]
			t.Run(name, func(t *testing.T) {
				inPowerLab(t, func(t *testing.T, l *powerLab) {
					ctx := as(t, "alice")
					sb := l.create(t, sessions.CreateRequest{})
					begin := func() { _, _ = l.Stop(ctx, sb.ID, time.Minute) }
					want, runs := sessions.Stopped, false
					if op != "relabel" && op != "stop" {
						begin()
						begin = func() { _, _ = l.Start(ctx, sb.ID, time.Minute) }
						want, runs = sessions.Ready, true
					}
					l.world.onStep(func(ctx context.Context, o, _ string, do func() error) error {
						if o != op {
							return do()
						}
						if after {
							if err := do(); err != nil {
								return err
							}
						}
						<-ctx.Done() // until the daemon dies
						return ctx.Err()
					})
					done := make(chan struct{})
					go func() { defer close(done); begin() }()
					synctest.Wait()
					if now := l.recorded(t, sb.ID).State; now != map[bool]sessions.State{false: sessions.Stopping, true: sessions.Starting}[runs] {
						t.Errorf("it is %s in between", now)
					}
					l.stop()
					<-done
					l.world.onStep(nil)
					l.reopen()
					time.Sleep(time.Minute)
					synctest.Wait()
					l.wantPower(t, sb.ID, want, runs)
				})
			})
		}
	}
}

// A machine that can't be started is off again, and its owner is told why.
func TestStartFails(t *testing.T) {
	for op, why := range map[string]string{"start": "the server has no room: no memory", "run": "it does not answer"} {
		t.Run(op, func(t *testing.T) {
			inPowerLab(t, func(t *testing.T, l *powerLab) {
				ctx := as(t, "alice")
				sb := l.create(t, sessions.CreateRequest{})
				if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
					t.Fatal(err)
				}
				l.world.fail(op, errors.Join(errors.New("no memory"), provisioner.ErrExhausted))
				_, err := l.Start(ctx, sb.ID, time.Minute)
				if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "could not be started and is STOPPED again: "+why) {
					t.Errorf("Start: %v", err)
				}
				l.wantPower(t, sb.ID, sessions.Stopped, false)
				if reason := l.recorded(t, sb.ID).Reason; !strings.HasPrefix(reason, "could not be started: "+why) {
					t.Errorf("reason %q", reason)
				}
				l.world.onStep(nil)
				if got, err := l.Start(ctx, sb.ID, time.Minute); err != nil || got.State != sessions.Ready || got.Reason != "" {
					t.Errorf("Start again: %+v, %v", got, err)
				}
			})
		})
	}
}

// A backend that can't stop a machine now is asked again.
func TestStopFails(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("stop", provisioner.ErrUnavailable)
		_, err := l.Stop(ctx, sb.ID, time.Minute)
		if k, msg := kind(t, err); k != sessions.Unavailable || !strings.Contains(msg, "is not stopped yet") || !strings.Contains(msg, "The server goes on with it") {
			t.Errorf("Stop: %v", err)
		}
		if _, err := l.Start(ctx, sb.ID, time.Minute); !strings.Contains(err.Error(), "start it when it is STOPPED") {
			t.Errorf("Start of what is being stopped: %v", err)
		}
		l.world.onStep(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Stopped, false)
	})
}

// A store that is lost costs no sandbox its disk, however young it is.
func TestStoppedIsAdopted(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		l.stop()
		l.loseStore(t, "")
		l.reopen()
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if _, err := l.Start(ctx, sb.ID, time.Minute); err != nil {
			t.Error(err)
		}
		if n := l.world.count("create"); n != 1 {
			t.Errorf("%d machines were made", n)
		}
	})
}

// What rests is not idle, and is no younger for it when it is back.
func TestIdleAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "agentlab.db"))
		l.Backends["mem"] = switchable{l.world}
		l.Profiles[0].IdleTimeout = 10 * time.Minute
		l.run()
		defer func() { l.stop() }()
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if _, err := l.Start(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		l.wantPower(t, sb.ID, sessions.Ready, true)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Destroyed)
	})
}

func TestPauseAndResume(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		if got, err := l.Pause(ctx, sb.ID); err != nil || got.State != sessions.Suspended {
			t.Fatalf("Pause: %+v, %v", got, err)
		}
		if _, msg := kind(t, l.Use(ctx, sb.ID, 0, nothing)); !strings.Contains(msg, "is SUSPENDED (paused by its owner); let it go on with start_sandbox") {
			t.Errorf("Use: %s", msg)
		}
		if _, err := l.Extend(ctx, sb.ID, 2*time.Hour); err != nil {
			t.Errorf("Extend: %v", err)
		}
		l.reopen()
		if got, err := l.Start(ctx, sb.ID, time.Minute); err != nil || got.State != sessions.Ready || got.Reason != "" {
			t.Fatalf("Start: %+v, %v", got, err)
		}
		if err := l.Use(ctx, sb.ID, 0, nothing); err != nil {
			t.Error(err)
		}
		l.world.fail("pause", provisioner.ErrUnavailable)
		if _, err := l.Pause(ctx, sb.ID); !strings.Contains(err.Error(), "may still run") {
			t.Errorf("Pause: %v", err)
		}
		l.world.fail("resume", provisioner.ErrUnavailable)
		if _, err := l.Resume(ctx, sb.ID); !strings.Contains(err.Error(), "Resume it again") {
			t.Errorf("Resume: %v", err)
		}
		l.wantPower(t, sb.ID, sessions.Suspended, true)
		l.world.onStep(nil)
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil { // from there, too
			t.Errorf("Stop: %v", err)
		}
		l.wantPower(t, sb.ID, sessions.Stopped, false)
		if _, err := l.Resume(ctx, sb.ID); !strings.Contains(err.Error(), "is STOPPED, and only") {
			t.Errorf("Resume of a stopped one: %v", err)
		}
		if _, err := l.Pause(ctx, sb.ID); !strings.Contains(err.Error(), "is STOPPED, and only") {
			t.Errorf("Pause of a stopped one: %v", err)
		}
	})
}

// What may not be, is refused before anything is recorded.
func TestSwitchingIsRefused(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		sb := l.create(t, sessions.CreateRequest{})
		calls := map[string]func(ctx context.Context) error{
			"stop":   func(ctx context.Context) error { _, err := l.Stop(ctx, sb.ID, time.Minute); return err },
			"start":  func(ctx context.Context) error { _, err := l.Start(ctx, sb.ID, 0); return err },
			"pause":  func(ctx context.Context) error { _, err := l.Pause(ctx, sb.ID); return err },
			"resume": func(ctx context.Context) error { _, err := l.Resume(ctx, sb.ID); return err },
		}
		for name, call := range calls {
			if k, _ := kind(t, call(as(t, "bob"))); k != sessions.NotFound {
				t.Errorf("%s of another's: %v", name, k)
			}
		}
		l.restart() // with machines that can't
		for name, call := range calls {
			if err := call(as(t, "alice")); name != "start" && (err == nil || !strings.Contains(err.Error(), "can't be")) {
				t.Errorf("%s where there is no such ability: %v", name, err)
			}
		}
		l.wantPower(t, sb.ID, sessions.Ready, true)
		l.reopen()
		l.world.hang("run", "")
		ctx := as(t, "alice")
		making, _, err := l.Create(ctx, sessions.CreateRequest{Wait: time.Second})
		if err != nil || making.State != sessions.Booting {
			t.Fatalf("Create: %+v, %v", making, err)
		}
		sb = making
		for name, call := range calls {
			if k, msg := kind(t, call(ctx)); k != sessions.Conflict || !strings.Contains(msg, "is BOOTING") {
				t.Errorf("%s of what is being made: %s", name, msg)
			}
		}
		l.world.onStep(nil)
	})
}
