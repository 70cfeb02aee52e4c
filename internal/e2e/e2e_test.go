//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
// every backend.
func TestClients(t *testing.T) {
	scripts, err := filepath.Glob("*.test.mjs")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("find the clients: %d found, %v", len(scripts), err)
	}
	for name, prepare := range map[string]func(*testing.T, *stage.Stage){
		"local": func(*testing.T, *stage.Stage) {}, "proxmox-api": overAPI, "proxmox-shell": overShell,
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

func drive(t *testing.T, st *stage.Stage, script string) {
	node, err := filepath.Abs("node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=spec", "--test-timeout=120000", script)
	cmd.Env = append(st.Env, "AGENTLAB_E2E_BIN="+st.Bin("agentlab"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
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
