package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// The test binary is also the programs that the scripts run.
func TestMain(m *testing.M) {
	pvetest.GuestMain()
	testscript.Main(m, map[string]func(){
		"agentlab": main,
		"doc":      docMain,
		"mcp":      mcpMain,
		"web":      webMain,
		"sandbox":  sandboxMain,
		"stranger": strangerMain,
		"tty":      ttyMain,
		"typist":   typistMain,
		"upon":     uponMain,
		"pvesh":    func() { os.Exit(pvetest.PveshMain()) },
	})
}

// TestScripts runs the program as its users do: each script in testdata has an
// installation of its own, on the real backend, and must leave nothing.
func TestScripts(t *testing.T) {
	bin := programs(t)
	p := params(func(env *testscript.Env) error { return setup(env, bin) })
	p.Dir = "testdata"
	testscript.Run(t, p)
}

// TestWalk tries each command of the program in each way of [cmdWalk].
func TestWalk(t *testing.T) {
	bin := programs(t)
	p := params(func(env *testscript.Env) error { return setup(env, bin) })
	p.Dir = "testdata/walk"
	testscript.Run(t, p)
}

// params are those of all scripts.
func params(setup func(*testscript.Env) error) testscript.Params {
	return testscript.Params{
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":     cmdDaemon,
			"daemons":    cmdDaemons,
			"slay":       cmdSlay,
			"exits":      cmdExits,
			"forge":      cmdForge,
			"tmpfs":      cmdTmpfs,
			"fill":       cmdFill,
			"mode":       cmdMode,
			"gone":       cmdGone,
			"planted":    cmdPlanted,
			"killguest":  cmdKillguest,
			"opensocket": cmdOpensocket,
			"get":        cmdGet,
			"pve":        cmdPVE,
			"walk":       cmdWalk,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: setup,
	}
}

// programs returns a directory with what agentlab needs beside it.
func programs(t *testing.T) string {
	t.Helper()
	runsc, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runsc); err != nil {
		t.Fatalf("%v; make bin/runsc makes it", err)
	}
	dir := t.TempDir()
	searchable(t, dir)
	if err := os.Symlink(runsc, filepath.Join(dir, "runsc")); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "agentlab-guest"), "../agentlab-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build agentlab-guest: %v\n%s", err, out)
	}
	return dir
}

// searchable lets root's sandboxes, which run as nobody, through to dir.
func searchable(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
}

// setup makes an installation's directories, and takes down at the end what
// the script has not: only then is a leftover an error, so that one failure
// does not become many.
func setup(env *testscript.Env, bin string) error {
	self, err := exec.LookPath("agentlab")
	if err != nil {
		return err
	}
	for _, d := range []string{env.WorkDir, filepath.Dir(env.WorkDir), filepath.Dir(filepath.Dir(self))} {
		if err := os.Chmod(d, 0o711); err != nil {
			return err
		}
	}
	for dir, mode := range map[string]os.FileMode{"state": 0o711, "run": 0o700, "config/agentlab/profiles": 0o755} {
		if err := os.MkdirAll(filepath.Join(env.WorkDir, dir), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(env.WorkDir, dir), mode); err != nil {
			return err
		}
	}
	env.Setenv("PATH", env.Getenv("PATH")+":"+bin)
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
	env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
	env.Setenv("SANDBOX_HOME", "/workspace")
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Defer(func() {
		t := env.T().(testing.TB)
		left := leftovers(env.WorkDir)
		// The shell around a pvesh that the daemon gave up when it ended cleans up after it.
		for end := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(end); left = leftovers(env.WorkDir) {
			time.Sleep(20 * time.Millisecond)
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		killAll(t, env.WorkDir)
	})
	return nil
}
