package crashtest

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

var sandboxes = flag.Int("sandboxes", 12, "of TestRestartUnderLoad")

// TestRestartUnderLoad ends the daemon again and again, by force and otherwise,
// while many sandboxes are used: none is lost, and what a process in each of
// them prints is read by offset without a gap or a repeat. `make load` has it with
// 100 sandboxes.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	n := *sandboxes
	sum := &tally{}
	t.Cleanup(func() { sum.tell(t, fmt.Sprintf("restarts under %d sandboxes", n)) })
	s := newSite(t, sum, func(t *testing.T, st *stage.Stage) world {
		w := onHost(t, st)
		if err := st.AddConfig("quota_sandboxes: 0\n"); err != nil {
			t.Fatal(err)
		}
		if err := st.AddProfile("default", "backend: local\nmin_ttl: 1s\nmemory_mb: 512\ncores: 1\n"); err != nil {
			t.Fatal(err)
		}
		return w
	})
	s.world.plant(t)
	all := s.countInAll(t, n)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL} {
		s.endUnderLoad(t, all, signal)
	}
	for _, c := range all {
		before := c.offset
		s.await(t, c.id+" to count on", func() (bool, string) {
			err := c.read(t.Context(), s)
			return err == nil && c.offset > before, fmt.Sprint(err)
		})
		if err := c.check(); err != nil {
			t.Errorf("%s: %v", c.id, err)
		}
	}
	s.together(n, func(i int) {
		if _, err := s.call(t.Context(), "destroy", stage.Args{"sandbox_id": all[i].id}, nil); err != nil {
			t.Error(err)
		}
	})
	s.vanish(t)
}

// counter is a process that prints numbered lines, and how far it was read.
type counter struct {
	id, process string
	offset      int64
	printed     strings.Builder
}

// countSlowly costs as little as can be: it starts no process for each line.
const countSlowly = "mkfifo never; exec 3<>never; i=0; while :; do i=$((i+1)); echo line $i; read -t 2 -u 3; done"

// countInAll makes n sandboxes with a process that counts in each.
func (s *site) countInAll(t *testing.T, n int) []*counter {
	t.Helper()
	all := make([]*counter, n)
	s.list(t) // connects
	s.together(n, func(i int) {
		var made struct {
			ID    string `json:"sandbox_id"`
			State string `json:"state"`
		}
		var started struct {
			ID string `json:"process_id"`
		}
		_, err := s.call(t.Context(), "create_sandbox", stage.Args{"name": fmt.Sprint("n", i), "wait_seconds": 55}, &made)
		for end := time.Now().Add(patience); err == nil && made.State != "ready" && time.Now().Before(end); { // on a loaded host
			_, err = s.call(t.Context(), "create_sandbox", stage.Args{"name": fmt.Sprint("n", i), "wait_seconds": 55}, &made)
		}
		if err == nil {
			_, err = s.call(t.Context(), "exec", stage.Args{
				"sandbox_id": made.ID, "command": countSlowly, "wait_seconds": 0,
			}, &started)
		}
		if err != nil {
			t.Error(err)
		}
		all[i] = &counter{id: made.ID, process: started.ID}
	})
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// together calls f for each of n, as many at once as make a load.
func (s *site) together(n int, f func(i int)) {
	const atOnce = 8
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	all.Wait()
}

// endUnderLoad ends the daemon with a signal when half of all counters were read
// once more, and starts it again. Calls that it cut short are not failures.
func (s *site) endUnderLoad(t *testing.T, all []*counter, signal syscall.Signal) {
	t.Helper()
	var half, rest sync.WaitGroup
	half.Add(len(all) / 2)
	rest.Go(func() {
		s.together(len(all), func(i int) {
			if i < len(all)/2 {
				defer half.Done()
			}
			_ = all[i].read(t.Context(), s)
			_, _ = s.call(t.Context(), "exec", stage.Args{"sandbox_id": all[i].id, "command": "true"}, nil)
		})
	})
	half.Wait()
	if err := s.daemon.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-s.daemon.ended
	if signal == syscall.SIGKILL {
		s.tally.kills.Add(1)
	}
	rest.Wait()
	s.hangUp()
	s.start(t)
	if ids := s.list(t); len(ids) != len(all) {
		t.Errorf("%d sandboxes after %v, want %d", len(ids), signal, len(all))
	}
}

// read reads on from where it was read to.
func (c *counter) read(ctx context.Context, s *site) error {
	var out struct {
		Next int64 `json:"next_offset"`
	}
	text, err := s.call(ctx, "read_process", stage.Args{"sandbox_id": c.id, "process_id": c.process, "offset": c.offset}, &out)
	if err != nil {
		return err
	}
	_, printed, _ := strings.Cut(text, "\n") // the first line is the tool's
	c.offset = out.Next
	c.printed.WriteString(printed)
	return nil
}

// check compares what was read with what the process prints.
func (c *counter) check() error {
	var want strings.Builder
	for i := 1; want.Len() < c.printed.Len(); i++ {
		fmt.Fprintln(&want, "line", i)
	}
	if got := c.printed.String(); got != want.String()[:len(got)] || int64(len(got)) != c.offset {
		return fmt.Errorf("%d bytes were read up to offset %d:\n%s", len(got), c.offset, got)
	}
	return nil
}
