package crashtest

import (
	"context"
	"fmt"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// changes are the points of switching a machine at which something changes.
var changes = []string{"store move ", "pve PUT ", "pve POST nodes/qemu/status", "local pause", "local resume"}

// switches are those that switch a machine off and on, where that can be, and those
// that hold it still and let it go on.
func switches() []operation {
	return []operation{
		{name: "stop-sandbox", of: "proxmox", before: then((*site).haveKept), do: power("stop_sandbox"), after: then((*site).stopAgain), only: changes, keeps: true},
		{name: "start-sandbox", of: "proxmox", before: then((*site).haveStopped), do: power("start_sandbox"), after: then((*site).startAgain), only: changes, keeps: true},
		{name: "pause-sandbox", before: then((*site).haveSandbox), do: pause, after: then((*site).pauseAgain), only: changes, keeps: true},
		{name: "resume-sandbox", before: then((*site).havePaused), do: power("start_sandbox"), after: then((*site).resumeAgain), only: changes, keeps: true},
	}
}

func power(tool string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		_, err := s.call(ctx, tool, stage.Args{"sandbox_id": s.id}, nil)
		return err
	}
}

func pause(ctx context.Context, s *site) error {
	_, err := s.call(ctx, "stop_sandbox", stage.Args{"sandbox_id": s.id, "pause": true}, nil)
	return err
}

func (s *site) havePaused(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	if err := pause(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// pauseAgain pauses the sandbox, whatever has come of it, and lets it go on.
func (s *site) pauseAgain(t *testing.T) {
	t.Helper()
	s.havePaused(t)
	s.resumeAgain(t)
}

// resumeAgain lets the sandbox go on, whatever has come of it: its process has
// left out nothing.
func (s *site) resumeAgain(t *testing.T) {
	t.Helper()
	s.must(t, "start_sandbox", stage.Args{"sandbox_id": s.id}, nil)
	s.intact(t)
}

// haveKept makes the sandbox, and in it a file, unless there is one.
func (s *site) haveKept(t *testing.T) {
	t.Helper()
	if s.id != "" {
		return
	}
	if err := create(t.Context(), s); err != nil {
		t.Fatalf("%v\nthe daemon said:\n%s", err, s.daemon.said())
	}
	s.must(t, "write_file", stage.Args{"sandbox_id": s.id, "path": "kept", "content": "kept"}, nil)
}

func (s *site) haveStopped(t *testing.T) {
	t.Helper()
	s.haveKept(t)
	s.must(t, "stop_sandbox", stage.Args{"sandbox_id": s.id}, nil)
}

// stopAgain stops the sandbox, whatever has come of it, and starts it.
func (s *site) stopAgain(t *testing.T) {
	t.Helper()
	s.must(t, "stop_sandbox", stage.Args{"sandbox_id": s.id}, nil)
	s.startHalted(t)
}

// startAgain starts the sandbox, whatever has come of it, and looks for the file.
func (s *site) startAgain(t *testing.T) {
	t.Helper()
	s.must(t, "start_sandbox", stage.Args{"sandbox_id": s.id}, nil)
	if s.process != "" { // it had a process, and no file
		return
	}
	if text := s.must(t, "read_file", stage.Args{"sandbox_id": s.id, "path": "kept"}, nil); text != "kept" {
		t.Errorf("the file holds %q", text)
	}
}

// startHalted starts the sandbox when it was seen that its machine is off.
func (s *site) startHalted(t *testing.T) {
	t.Helper()
	s.halted(t)
	s.startAgain(t)
}

// halted waits until the sandbox is STOPPED.
func (s *site) halted(t *testing.T) {
	t.Helper()
	s.begun(t)
	s.await(t, "a sandbox that is stopped", func() (bool, string) {
		records := s.records(t)
		return len(records) == 1 && records[0].State == sessions.Stopped, fmt.Sprint(records)
	})
}
