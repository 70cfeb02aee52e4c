//go:build e2e

package e2e_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// The test binary is also a machine of the simulated Proxmox VE, and its pvesh.
func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

// TestClients gives each client an installation of its own, so that one that
// breaks its daemon does not fail the others. What they do is the same on
// every backend; that it is the same over HTTP is tried on one.
func TestClients(t *testing.T) {
	scripts, err := filepath.Glob("*.test.mjs")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("find the clients: %d found, %v", len(scripts), err)
	}
	for name, prepare := range map[string]func(*testing.T, *stage.Stage){
		"local": overHTTP, "proxmox-api": overAPI, "proxmox-shell": overShell,
	} {
		for _, script := range scripts {
			t.Run(name+"/"+script, func(t *testing.T) {
				st, err := stage.New("../../bin")
				if err != nil {
					t.Fatal(err)
				}
				prepare(t, st)
				defer func() {
					if err := st.Close(); err != nil {
						t.Error(err)
					}
				}()
				drive(t, st, script)
			})
		}
	}
}

// TestBundle starts what a desktop client would install.
func TestBundle(t *testing.T) {
	out := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "run", "./internal/dist", "-out", out, "-arch", runtime.GOARCH, "-remote", "", "-tools", "")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the bundle: %v\n%s", err, text)
	}
	bundles, err := filepath.Glob(filepath.Join(out, "*.mcpb"))
	if err != nil || len(bundles) != 1 {
		t.Fatalf("bundles: %q, %v", bundles, err)
	}
	dir := filepath.Join(out, "installed")
	if text, err := exec.CommandContext(t.Context(), "node_modules/.bin/mcpb", "unpack", bundles[0], dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack the bundle: %v\n%s", err, text)
	}
	st, err := stage.New(filepath.Join(dir, "server"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	st.Env = append(st.Env, "AGENTLAB_E2E_BUNDLE="+dir)
	drive(t, st, "bundle.mjs")
}

func drive(t *testing.T, st *stage.Stage, script string) {
	node, err := filepath.Abs("node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=spec", "--test-timeout=600000", script)
	cmd.Env = append(st.Env, "AGENTLAB_E2E_BIN="+st.Bin("agentlab"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
}

// overHTTP has the stage's daemon listen on the loopback, and the clients find it.
func overHTTP(t *testing.T, st *stage.Stage) {
	if err := st.Configure("http_listen: 127.0.0.1:0\nhttp_auth: none\n"); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(st.Bin("agentlab"), "serve") // the stage stops it
	daemon.Env = st.Env
	said, err := daemon.StderrPipe()
	if err == nil {
		err = daemon.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), " url="); ok {
			url, _, _ := strings.Cut(rest, "/mcp")
			st.Env = append(st.Env, "AGENTLAB_E2E_URL="+url)
			break
		}
	}
	log := make(chan struct{})
	go func() {
		defer close(log)
		for lines.Scan() {
			t.Log(lines.Text())
		}
		_ = daemon.Wait()
	}()
	t.Cleanup(func() { <-log }) // it ends with the daemon
}

// simulate gives the stage a Proxmox VE, on which nothing may be left.
func simulate(t *testing.T, st *stage.Stage) *pvesim.Sim {
	t.Helper()
	sim, err := pvesim.New(filepath.Join(st.Dir, "proxmox"), "9.2.11")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the stage is closed
		defer sim.Close()
		if changed := sim.Changed(); len(changed) > 0 {
			t.Errorf("changed on the Proxmox:\n%s", strings.Join(changed, "\n"))
		}
	})
	if err := st.AddProfile("default", "backend: proxmox\n"); err != nil {
		t.Fatal(err)
	}
	return sim
}

func overAPI(t *testing.T, st *stage.Stage) {
	if err := st.Configure(simulate(t, st).Config()); err != nil {
		t.Fatal(err)
	}
}

func overShell(t *testing.T, st *stage.Stage) {
	lines, variable, err := simulate(t, st).ShellConfig(filepath.Join(st.Dir, "pvesh.sock"))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(st.Dir, "pvesh")); err != nil {
		t.Fatal(err)
	}
	st.Env = append(st.Env, variable, fmt.Sprintf("PATH=%s:%s", st.Dir, os.Getenv("PATH")))
	if err := st.Configure(lines); err != nil {
		t.Fatal(err)
	}
}
