package keep

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// start starts a process and waits for its end, if it has one.
func start(t *testing.T, table *Table, wait time.Duration, args ...string) guest.Process {
	t.Helper()
	p, _, err := table.Start(t.Context(), guest.Cmd{Args: args}, guest.StartOptions{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestForget(t *testing.T) {
	dir := t.TempDir()
	table := &Table{Host: &proc.Host{}, Dir: filepath.Join(dir, "log"), IDs: filepath.Join(dir, "ids")}
	start(t, table, time.Minute, "sh", "-c", "head -c 100000 /dev/zero")
	sleep := start(t, table, 0, "sleep", "4713")
	if err := table.Forget(); err == nil {
		t.Error("a process that runs was forgotten")
	}
	if list, err := table.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("it knows %+v, %v", list, err)
	}
	if _, err := table.Control(t.Context(), sleep.ID, guest.Input{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	if p, _, err := table.Read(t.Context(), sleep.ID, guest.ReadRequest{Wait: time.Minute, Until: "never"}); err != nil || p.Running {
		t.Fatalf("it did not end: %+v, %v", p, err)
	}
	if err := table.Forget(); err != nil {
		t.Fatal(err)
	}
	if logs, err := os.ReadDir(table.Dir); err != nil || len(logs) > 0 {
		t.Errorf("logs are left: %v, %v", logs, err)
	}
	if p := start(t, table, time.Minute, "true"); p.ID != "p_1" {
		t.Errorf("the first process after that is %s", p.ID)
	}
}

// A process may be forgotten between its end and when that is noted.
func TestForgottenAtItsEnd(t *testing.T) {
	table := &Table{Host: &proc.Host{}, Dir: t.TempDir()}
	old := &process{}
	if err := table.reserve(); err != nil {
		t.Fatal(err)
	}
	table.enter(old)
	if err := table.Forget(); err != nil {
		t.Fatal(err)
	}
	table.leave(old)
	if table.running != 0 || len(table.ended) != 0 {
		t.Errorf("%d run and %d have ended, of none", table.running, len(table.ended))
	}
}
