package crashtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// operation is something that the daemon does, in the course of which it is killed.
type operation struct {
	name string
	// of names the only backend that has it; empty is each.
	of string
	// before makes what it begins with. It is done anew for each fail-point.
	before func(t *testing.T, s *site)
	// do does it. Nil is for what a daemon does by itself when it starts.
	do func(ctx context.Context, s *site) error
	// until waits for the end of what it sets in motion; nil is do's return.
	until func(t *testing.T, s *site)
	// after says what holds when the next daemon has started.
	after func(t *testing.T, s *site)
	// ends says that the sandbox is over by then, and nobody need destroy it.
	ends bool
	// brief says to leave out the points that every start passes: they were tried.
	brief bool
	// only are how the points begin to die at; none is each.
	only []string
	// keeps says that the sandbox is the next one's, too.
	keeps bool
}

// diesAt says that an operation is to be killed at a point.
func (op operation) diesAt(point string) bool {
	return len(op.only) == 0 || slices.ContainsFunc(op.only, func(begin string) bool { return strings.HasPrefix(point, begin) })
}

// operations are all there are today but those on the inside of a sandbox.
func operations() []operation {
	return []operation{
		{name: "create", before: then((*site).coolDown), do: create, after: then((*site).createAgain)},
		{name: "extend-later", before: then((*site).haveSandbox), do: extend(7200), after: extendAgain(7200), keeps: true},
		{name: "extend-sooner", before: then((*site).haveSandbox), do: extend(1800), after: extendAgain(1800), keeps: true},
		{name: "destroy", before: then((*site).haveSandbox), do: destroy, after: again(destroy), ends: true},
		{name: "reap", before: then((*site).haveSandbox), do: extend(1), until: then((*site).over), after: again(extend(1)), ends: true},
	}
}

func create(ctx context.Context, s *site) error {
	var out struct {
		ID string `json:"sandbox_id"`
	}
	_, err := s.call(ctx, "create_sandbox", stage.Args{"name": "one", "wait_seconds": 55}, &out)
	s.id = out.ID
	return err
}

// coolDown makes the next sandbox the first one: what all have in common is made anew.
func (s *site) coolDown(t *testing.T) {
	t.Helper()
	s.stop(t)
	files, err := filepath.Glob(s.state("local/rootfs/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t)
}

func extend(ttl int) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		_, err := s.call(ctx, "extend_ttl", stage.Args{"sandbox_id": s.id, "ttl_seconds": ttl}, nil)
		return err
	}
}

func destroy(ctx context.Context, s *site) error {
	_, err := s.call(ctx, "destroy", stage.Args{"sandbox_id": s.id}, nil)
	return err
}

// haveSandbox makes the sandbox, and in it a process that counts, unless there
// is one.
func (s *site) haveSandbox(t *testing.T) {
	t.Helper()
	if s.id != "" {
		return
	}
	if err := create(t.Context(), s); err != nil {
		t.Fatalf("%v\nthe daemon said:\n%s", err, s.daemon.said())
	}
	var out struct {
		ID string `json:"process_id"`
	}
	s.must(t, "exec", stage.Args{"sandbox_id": s.id, "command": "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done", "wait_seconds": 0}, &out)
	s.process, s.counted = out.ID, 0
	s.intact(t)
}

// intact looks whether the process goes on to count, and has left out nothing.
func (s *site) intact(t *testing.T) {
	t.Helper()
	var out struct {
		Running bool `json:"running"`
		Matched bool `json:"matched"`
	}
	next := s.counted + 1
	text := s.must(t, "read_process", stage.Args{
		"sandbox_id": s.id, "process_id": s.process, "offset": 0, "wait_seconds": 55, "until": fmt.Sprintf(`(?m)^%d\n`, next),
	}, &out)
	var counts []int
	for line := range strings.Lines(text) {
		var n int
		if _, err := fmt.Sscan(line, &n); err == nil {
			counts = append(counts, n)
		}
	}
	for i, n := range counts {
		if n != i+1 {
			t.Errorf("the process has counted %d where %d was due: %v", n, i+1, counts)
			break
		}
	}
	if !out.Running || !out.Matched || len(counts) < next {
		t.Errorf("the process that counts: %s\nwant it to run and to have come to %d", text, next)
	}
	s.counted = len(counts)
}

// createAgain asks for the sandbox that was being made: there is one, of that
// name, and it can be used.
func (s *site) createAgain(t *testing.T) {
	t.Helper()
	if err := create(t.Context(), s); err != nil {
		t.Errorf("create again: %v\nthe daemon said:\n%s", err, s.daemon.said())
		return
	}
	s.must(t, "exec", stage.Args{"sandbox_id": s.id, "command": "true"}, nil)
	s.settle(t)
	if ids := s.list(t); len(ids) != 1 || ids[0] != s.id {
		t.Errorf("sandboxes are %v, want only %s", ids, s.id)
	}
}

// extendAgain sets the end once more, to which the record and the papers must come.
func extendAgain(ttl int) func(t *testing.T, s *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		s.settle(t)
		if err := extend(ttl)(t.Context(), s); err != nil {
			t.Errorf("extend again: %v", err)
		}
		s.intact(t)
	}
}

// again repeats what was asked for if the crash came before any of it was kept.
func again(do func(context.Context, *site) error) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		if len(s.list(t)) == 0 {
			return
		}
		if err := do(t.Context(), s); err != nil && len(s.list(t)) > 0 { // else it came to its end meanwhile
			t.Errorf("ask again: %v", err)
		}
	}
}

// begun waits until the daemon has its database: nobody else may open it before.
func (s *site) begun(t *testing.T) {
	t.Helper()
	s.await(t, "the daemon to begin", func() (bool, string) { return isClosed(s.daemon.serving), "" })
	s.list(t)
}

// over waits until the sandbox is DESTROYED.
func (s *site) over(t *testing.T) {
	t.Helper()
	s.begun(t)
	s.await(t, "the end of the sandbox", func() (bool, string) {
		records := s.records(t)
		return len(records) == 0, fmt.Sprint(records)
	})
}

// starts are what a daemon does by itself when it starts.
func starts() []operation {
	return []operation{
		{name: "start", before: then((*site).forget), until: then((*site).awaitStart)},
		{name: "resume", before: then((*site).halfMade), until: then((*site).ready), after: then((*site).createAgain), brief: true},
		{name: "adopt", before: then((*site).lost), until: then((*site).ready), after: then((*site).intact), brief: true},
		{name: "reap-late", before: then((*site).late), until: then((*site).over), ends: true, brief: true},
		{name: "bury", of: "local", before: then((*site).dead), until: then((*site).over), ends: true, brief: true},
		{name: "halt", of: "proxmox", before: then((*site).dead), until: then((*site).halted), after: then((*site).startHalted), brief: true},
	}
}

// lost leaves a sandbox without a record.
func (s *site) lost(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	s.stop(t)
	s.loseStore(t)
}

// late leaves a sandbox that is past its end before the next daemon starts.
func (s *site) late(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	s.hold(t, extend(1), "store set end after #1")
}

// dead leaves a sandbox whose machine is dead.
func (s *site) dead(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	s.stop(t)
	s.world.slay(t)
}

// forget removes the whole state of the installation.
func (s *site) forget(t *testing.T) {
	t.Helper()
	s.stop(t)
	if err := os.RemoveAll(filepath.Join(s.Dir, "state", "agentlab")); err != nil {
		t.Fatal(err)
	}
}

// loseStore removes the database. No daemon runs.
func (s *site) loseStore(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(s.state("agentlab.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("find the database: %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// halfMade leaves a machine that has been begun, and no daemon.
func (s *site) halfMade(t *testing.T) {
	t.Helper()
	s.hold(t, create, map[string]string{"local": "local name bundle after #1", "proxmox": "pve PUT nodes/qemu/config after #1"}[s.world.name()])
}

// ready waits until there is a sandbox that can be used.
func (s *site) ready(t *testing.T) {
	t.Helper()
	s.begun(t)
	s.await(t, "a sandbox that can be used", func() (bool, string) {
		records := s.records(t)
		return len(records) == 1 && (records[0].State == sessions.Ready || records[0].State == sessions.Running), fmt.Sprint(records)
	})
}

// then makes a method of the site what an operation holds.
func then(f func(*site, *testing.T)) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		f(s, t)
	}
}
