package crashtest

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/failpoint"
)

// patience is how long whatever must happen may take on a loaded machine.
const patience = 2 * time.Minute

// daemon is a running `agentlab serve`.
type daemon struct {
	cmd     *exec.Cmd
	serving chan struct{} // closed when it serves
	ended   chan struct{} // closed when the process has ended and all it said was read

	mu  sync.Mutex
	log strings.Builder
}

// launch starts a daemon of the site. It may be about to die.
func (s *site) launch(t *testing.T) {
	t.Helper()
	cmd := exec.Command(s.Bin("agentlab"), "serve")
	cmd.Env = append(slices.Clip(s.Env), failpoint.Env+"="+string(s.points))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{cmd: cmd, serving: make(chan struct{}), ended: make(chan struct{})}
	go d.read(r)
	s.daemon = d
}

func (d *daemon) read(r io.ReadCloser) {
	defer close(d.ended)
	lines := bufio.NewScanner(r)
	for served := false; lines.Scan(); {
		d.mu.Lock()
		d.log.WriteString(lines.Text() + "\n")
		d.mu.Unlock()
		if !served && strings.Contains(lines.Text(), "msg=serving ") {
			served = true
			close(d.serving)
		}
	}
	_ = r.Close()
	_ = d.cmd.Wait() // how it ended is in ProcessState
}

// said is what the daemon has logged so far.
func (d *daemon) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// slain says whether it has ended by SIGKILL.
func (d *daemon) slain() bool {
	select {
	case <-d.ended:
		status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
		return ok && status.Signal() == syscall.SIGKILL
	default:
		return false
	}
}

// start starts a daemon and waits until it has compared its records with the
// machines once, and did what is to be done at once.
func (s *site) start(t *testing.T) {
	t.Helper()
	if err := s.points.Record(); err != nil {
		t.Fatal(err)
	}
	s.launch(t)
	s.awaitStart(t)
	if s.usual == nil {
		var err error
		if s.usual, err = s.points.Passed(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.points.Disarm(); err != nil {
		t.Fatal(err)
	}
}

// awaitStart waits until a daemon that records its points has done what each
// does when it starts.
func (s *site) awaitStart(t *testing.T) {
	t.Helper()
	s.await(t, "the daemon's first look", func() (bool, string) {
		passed, err := s.points.Passed()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(passed, "\n") + "\n"
		looked := strings.Contains(text, s.world.name()+" list after #1\n") && strings.Contains(text, "store prune after #1\n")
		return looked && isClosed(s.daemon.serving), text
	})
}

// stop ends the daemon as a service manager does.
func (s *site) stop(t *testing.T) {
	t.Helper()
	s.hangUp()
	if s.daemon == nil {
		return
	}
	if err := s.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	select {
	case <-s.daemon.ended:
	case <-time.After(patience):
		t.Fatalf("the daemon does not end:\n%s", s.daemon.said())
	}
	s.daemon = nil
}

// await polls until done, which says what there is instead.
func (s *site) await(t *testing.T, what string, done func() (ok bool, is string)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ok, is := done()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s; there is:\n%s\nthe daemon said:\n%s", patience, what, is, s.daemon.said())
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
