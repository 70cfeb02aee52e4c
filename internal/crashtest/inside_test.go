package crashtest

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// file is what the operations on files are about, in a directory of its own.
const (
	fileDir = "files"
	file    = fileDir + "/one"
)

// inside are the operations on the inside of a sandbox. It outlives all of them.
func inside() []operation {
	return []operation{
		{name: "exec", before: then((*site).haveSandbox), do: on("exec", stage.Args{"command": "true"}), after: then((*site).intact), keeps: true},
		{name: "background", before: then((*site).haveSandbox), do: on("exec", stage.Args{"command": "exec cat", "wait_seconds": 0}), after: then((*site).oneCat), keeps: true},
		{name: "control", before: then((*site).haveCat), do: func(ctx context.Context, s *site) error {
			return on("control_process", stage.Args{"process_id": s.cat, "stdin": "said\n"})(ctx, s)
		}, after: then((*site).heardOnce), keeps: true},
		{name: "write", before: then((*site).haveFile), do: on("write_file", stage.Args{"path": file, "content": "new\n"}), after: then((*site).wholeFile), keeps: true},
		{name: "edit", before: then((*site).haveFile), do: on("edit_file", stage.Args{"path": file, "old_string": "old", "new_string": "new"}), after: then((*site).wholeFile), keeps: true},
		{name: "read", before: then((*site).haveFile), do: func(ctx context.Context, s *site) error {
			for tool, args := range map[string]stage.Args{
				"read_file": {"path": file}, "list_files": {"path": fileDir}, "list_sandboxes": {},
				"read_process": {"process_id": s.process, "offset": 0},
			} {
				if err := on(tool, args)(ctx, s); err != nil {
					return err
				}
			}
			return nil
		}, after: then((*site).wholeFile), keeps: true},
	}
}

// on calls a tool for the sandbox.
func on(tool string, args stage.Args) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		with := stage.Args{"sandbox_id": s.id}
		maps.Copy(with, args)
		_, err := s.call(ctx, tool, with, nil)
		return err
	}
}

// sh runs a command that succeeds and returns what it prints.
func (s *site) sh(t *testing.T, command string) string {
	t.Helper()
	var out struct {
		Code int `json:"exit_code"`
	}
	text := s.must(t, "exec", stage.Args{"sandbox_id": s.id, "command": command}, &out)
	if out.Code != 0 {
		t.Fatalf("%s: %s", command, text)
	}
	_, printed, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(printed)
}

// cats returns the ids of the processes that run cat.
func (s *site) cats(t *testing.T) []string {
	t.Helper()
	var out struct {
		Processes []struct {
			ID      string `json:"process_id"`
			Command string `json:"command"`
			State   string `json:"state"`
		} `json:"processes"`
	}
	s.must(t, "list_sandboxes", stage.Args{"sandbox_id": s.id}, &out)
	var ids []string
	for _, p := range out.Processes {
		if p.Command == "exec cat" && p.State == "running" {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// oneCat looks whether the process was started once or not at all, and is under
// control then.
func (s *site) oneCat(t *testing.T) {
	t.Helper()
	s.intact(t)
	ids := s.cats(t)
	if len(ids) > 1 {
		t.Errorf("it was started %d times", len(ids))
	}
	for _, id := range ids {
		s.must(t, "control_process", stage.Args{"sandbox_id": s.id, "process_id": id, "close_stdin": true}, nil)
		s.must(t, "read_process", stage.Args{"sandbox_id": s.id, "process_id": id, "wait_seconds": 55, "until": "never"}, nil)
	}
	if ids := s.cats(t); len(ids) > 0 {
		t.Errorf("%v still run", ids)
	}
}

func (s *site) haveCat(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	var out struct {
		ID string `json:"process_id"`
	}
	s.must(t, "exec", stage.Args{"sandbox_id": s.id, "command": "exec cat", "wait_seconds": 0}, &out)
	s.cat = out.ID
}

// heardOnce looks whether the input came once or not at all.
func (s *site) heardOnce(t *testing.T) {
	t.Helper()
	s.oneCat(t)
	text := s.must(t, "read_process", stage.Args{"sandbox_id": s.id, "process_id": s.cat, "offset": 0}, nil)
	if n := strings.Count(text, "said"); n > 1 || !strings.HasPrefix(text, "exit_code: 0") {
		t.Errorf("the input came %d times:\n%s", n, text)
	}
}

func (s *site) haveFile(t *testing.T) {
	t.Helper()
	s.haveSandbox(t)
	s.must(t, "write_file", stage.Args{"sandbox_id": s.id, "path": file, "content": "old\n"}, nil)
}

// wholeFile looks whether the file is the old one or the new one, and nothing
// else is beside it.
func (s *site) wholeFile(t *testing.T) {
	t.Helper()
	s.intact(t)
	if is := s.sh(t, "cat "+file); is != "old" && is != "new" {
		t.Errorf("the file holds %q", is)
	}
	if err := on("write_file", stage.Args{"path": file, "content": "again\n"})(t.Context(), s); err != nil {
		t.Errorf("write again: %v", err)
	}
	if is := s.sh(t, "cat "+file+"; ls -A "+fileDir); is != "again\none" {
		t.Errorf("after another write: %q", is)
	}
}
