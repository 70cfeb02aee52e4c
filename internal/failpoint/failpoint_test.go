package failpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/failpoint"
)

// The test binary is also the process that is killed.
func TestMain(m *testing.M) {
	points := failpoint.New(failpoint.Dir(os.Getenv(failpoint.Env)))
	if points == nil {
		os.Exit(m.Run())
	}
	for range 2 {
		if err := points.Around("step", func() error { return nil }); err != nil {
			os.Exit(2)
		}
	}
}

func TestKill(t *testing.T) {
	all := []string{"step before #1", "step after #1", "step before #2", "step after #2"}
	dir := failpoint.Dir(t.TempDir())
	run := func(order error) (killed bool, passed []string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), failpoint.Env+"="+string(dir))
		err := cmd.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			killed, err = exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL, nil
		}
		passed, perr := dir.Passed()
		if err := errors.Join(order, err, perr); err != nil {
			t.Fatal(err)
		}
		return killed, passed
	}
	if killed, passed := run(dir.Record()); killed || !slices.Equal(passed, all) {
		t.Errorf("record: killed %v, passed %q, want %q", killed, passed, all)
	}
	for i, point := range all {
		if killed, passed := run(dir.Kill(point)); !killed || !slices.Equal(passed, all[:i+1]) {
			t.Errorf("kill at %q: killed %v, passed %q", point, killed, passed)
		}
	}
	if killed, passed := run(dir.Kill("another #1")); killed || !slices.Equal(passed, all) {
		t.Errorf("kill at a point that is not passed: killed %v, passed %q", killed, passed)
	}
	if killed, _ := run(dir.Disarm()); killed {
		t.Error("killed though disarmed")
	}
}

// Who is held at a point goes on when it is released, and others pass meanwhile.
func TestHold(t *testing.T) {
	dir := failpoint.Dir(t.TempDir())
	points := failpoint.New(dir)
	release, err := dir.Hold("one before #1")
	if err != nil {
		t.Fatal(err)
	}
	began, done := make(chan struct{}), make(chan error)
	go func() {
		done <- points.Around("one", func() error { close(began); return nil })
	}()
	for {
		passed, err := dir.Passed()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(passed, "one before #1") {
			break
		}
	}
	for _, name := range []string{"another", "one"} {
		if err := points.Around(name, func() error { return nil }); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-began:
		t.Error("it was not held")
	default:
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whoever does not arm them gets back what it gave.
func TestNone(t *testing.T) {
	none := failpoint.New("")
	want := errors.New("of the step")
	if err := none.Around("step", func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Around: %v, want what the step says", err)
	}
	if none.Store(nil) != nil || none.Tokens(nil) != nil || none.Backend("", nil) != nil || none.Transport(nil) != nil {
		t.Error("something is wrapped without points")
	}
}
