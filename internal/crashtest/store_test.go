package crashtest

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/store"
)

// command is one of `agentlab store`, which is killed itself.
type command struct {
	name string
	args []string
	// before makes what it begins with, but for the sandbox and the token.
	before func(t *testing.T, s *site)
	// after says what holds then, whether or not a daemon runs.
	after func(t *testing.T, s *site)
	// forgets says that tokens need not be known any more.
	forgets bool
}

func storeCommands() []command {
	return []command{
		{name: "rebuild", args: []string{"store", "rebuild"}, before: then((*site).stop), after: then((*site).oldIsKept)},
		{name: "rebuild-damaged", args: []string{"store", "rebuild"}, before: then((*site).damageStore), after: then((*site).damagedIsKept), forgets: true},
		{name: "backup", args: []string{"store", "backup", "saved"}, after: then((*site).wholeOrNone)},
	}
}

// TestCrashOfStore kills the commands that replace or copy the database.
func TestCrashOfStore(t *testing.T) {
	for name, newWorld := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := &tally{}
			t.Cleanup(func() { sum.tell(t, "crashes of agentlab store, backend "+name) })
			s := newSite(t, sum, newWorld)
			s.world.plant(t)
			for _, c := range storeCommands() {
				s.killCommand(t, c)
			}
			s.clean(t)
		})
	}
}

// killCommand kills a command at each of its fail-points.
func (s *site) killCommand(t *testing.T, c command) {
	t.Helper()
	points := failpoint.Dir(t.TempDir())
	s.prepareStore(t, c)
	if err := points.Record(); err != nil {
		t.Fatal(err)
	}
	if s.runStore(t, c, points) {
		t.Fatalf("%s was killed", c.name)
	}
	passed, err := points.Passed()
	if err != nil {
		t.Fatal(err)
	}
	s.checkStore(t, c)
	chosen := choose(passed)
	s.tally.points.Add(int64(len(chosen)))
	for _, point := range chosen {
		t.Run(strings.ReplaceAll(c.name+"/"+point, " ", "-"), func(t *testing.T) {
			s.prepareStore(t, c)
			if err := points.Kill(point); err != nil {
				t.Fatal(err)
			}
			if !s.runStore(t, c, points) {
				t.Fatalf("%s was not killed at %s", c.name, point)
			}
			s.tally.kills.Add(1)
			s.checkStore(t, c)
		})
		if t.Failed() {
			return
		}
	}
}

func (s *site) prepareStore(t *testing.T, c command) {
	t.Helper()
	s.haveSandbox(t)
	if s.live(t) == 0 {
		if err := createToken(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(s.state("agentlab.db.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, s.saved(""), s.saved(".partial")) {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	if c.before != nil {
		c.before(t, s)
	}
}

// saved is the path of the backup, with a suffix.
func (s *site) saved(suffix string) string { return filepath.Join(s.Dir, "saved"+suffix) }

// runStore says whether the command was killed.
func (s *site) runStore(t *testing.T, c command, points failpoint.Dir) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Bin("agentlab"), c.args...)
	cmd.Dir, cmd.Env = s.Dir, append(slices.Clip(s.Env), failpoint.Env+"="+string(points))
	text, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", c.name, err, text)
	}
	return false
}

// checkStore looks whether the sandbox, what runs in it and the token are known
// to the next daemon, and nothing else.
func (s *site) checkStore(t *testing.T, c command) {
	t.Helper()
	c.after(t, s)
	_, err := os.Stat(store.Draft(s.state("agentlab.db")))
	cut := err == nil
	if s.daemon == nil {
		s.start(t)
	}
	if told := strings.Contains(s.daemon.said(), "rebuild of the database was cut short"); told != cut {
		t.Errorf("a rebuild was cut short: %v; the daemon says so: %v\n%s", cut, told, s.daemon.said())
	}
	s.settle(t)
	if ids := s.list(t); len(ids) != 1 || ids[0] != s.id {
		t.Errorf("sandboxes are %v, want %s", ids, s.id)
	}
	s.intact(t)
	if n := s.live(t); n != 1 && !c.forgets {
		t.Errorf("%d tokens are live, want 1", n)
	}
	if _, err := os.Stat(store.Draft(s.state("agentlab.db"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the draft is left: %v", err)
	}
	s.untouched(t)
}

// oldIsKept looks whether there is a database that knows the token, whatever
// else there is.
func (s *site) oldIsKept(t *testing.T) {
	t.Helper()
	db, err := store.Open(t.Context(), s.state("agentlab.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if tokens, err := db.Tokens(t.Context()); err != nil || len(tokens) == 0 {
		t.Errorf("tokens of the database that is in force: %v, %v", tokens, err)
	}
}

// garbage is no database.
var garbage = bytes.Repeat([]byte("no database "), 1000)

func (s *site) damageStore(t *testing.T) {
	t.Helper()
	s.stop(t)
	if err := os.WriteFile(s.state("agentlab.db"), garbage, 0o600); err != nil {
		t.Fatal(err)
	}
}

// damagedIsKept looks whether it is still somewhere.
func (s *site) damagedIsKept(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(s.state("agentlab.db*"))
	if err != nil {
		t.Fatal(err)
	}
	kept := slices.ContainsFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		return err == nil && bytes.Equal(data, garbage)
	})
	if !kept {
		t.Errorf("the damaged database is not kept: %v", files)
	}
}

// wholeOrNone looks whether the backup is one that can be used, or there is none.
func (s *site) wholeOrNone(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(s.saved("")); errors.Is(err, fs.ErrNotExist) {
		return
	}
	key, err := os.ReadFile(s.state("instance.key"))
	if err != nil {
		t.Fatal(err)
	}
	if copied, err := os.ReadFile(s.saved("/instance.key")); err != nil || !bytes.Equal(key, copied) {
		t.Errorf("the key is not the one in use: %v", err)
	}
	db, err := store.Open(t.Context(), s.saved("/agentlab.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Sandbox(t.Context(), s.id); err != nil {
		t.Errorf("the sandbox in it: %v", err)
	}
}
