package crashtest

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// TestHung has an operation of one principal hang before each of its steps:
// another principal is served meanwhile, and no second daemon takes over.
func TestHung(t *testing.T) {
	t.Parallel()
	s := newSite(t, &tally{}, withHTTP(onHost))
	s.world.plant(t)
	if err := createToken(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	another, err := stage.ConnectHTTP(t.Context(), s.web(t), s.token)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	serveAnother(t, another) // what all machines have in common is made by the first
	for _, op := range []operation{
		{name: "create", do: create},
		{name: "exec", before: then((*site).haveSandbox), do: on("exec", stage.Args{"command": "true"}), keeps: true},
		{name: "extend", before: then((*site).haveSandbox), do: extend(7200), keeps: true},
		{name: "destroy", before: then((*site).haveSandbox), do: destroy, ends: true},
	} {
		points := slices.DeleteFunc(s.record(t, op), func(p string) bool { return looks(p) || !strings.HasSuffix(p, " before #1") })
		for _, point := range points {
			t.Run(strings.ReplaceAll(op.name+"/"+point, " ", "-"), func(t *testing.T) { s.hang(t, op, point, another) })
		}
	}
	s.clean(t)
}

// hang has an operation hang at a point until another client was served.
func (s *site) hang(t *testing.T, op operation, point string, another *stage.Client) {
	s.prepare(t, op)
	release, err := s.points.Hold(point)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- op.do(t.Context(), s) }()
	s.await(t, "the operation to hang", func() (bool, string) {
		passed, err := s.points.Passed()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(passed, point), strings.Join(passed, "\n")
	})
	serveAnother(t, another)
	s.refuseSecond(t)
	select {
	case err := <-done:
		t.Errorf("it has not hung: %v", err)
		done <- err
	default:
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("released: %v", err)
	}
	if err := s.points.Disarm(); err != nil {
		t.Fatal(err)
	}
	s.finish(t, op)
}

// serveAnother makes a sandbox for another client, uses it and destroys it.
func serveAnother(t *testing.T, c *stage.Client) {
	t.Helper()
	var made struct {
		ID string `json:"sandbox_id"`
	}
	_, err := c.Call(t.Context(), "create_sandbox", stage.Args{"wait_seconds": 55}, &made)
	for _, tool := range []string{"exec", "destroy"} {
		args := stage.Args{"sandbox_id": made.ID}
		if tool == "exec" {
			args["command"] = "true"
		}
		if err == nil {
			_, err = c.Call(t.Context(), tool, args, nil)
		}
	}
	if err != nil {
		t.Errorf("another principal is not served: %v", err)
	}
}

var heldBy = regexp.MustCompile(`is locked by another daemon \(process \d+, listening on \S+, for \S+\)`)

// refuseSecond starts a second daemon, which is told who was first and for how long.
func (s *site) refuseSecond(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Bin("agentlab"), "serve")
	cmd.Env = s.Env
	text, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 3 || !heldBy.Match(text) {
		t.Errorf("a second daemon: %v, %s", err, text)
	}
}
