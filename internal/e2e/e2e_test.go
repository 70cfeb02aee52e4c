//go:build e2e

package e2e_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// TestClients gives each client an installation of its own, so that one that
// breaks its daemon does not fail the others.
func TestClients(t *testing.T) {
	scripts, err := filepath.Glob("*.test.mjs")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("find the clients: %d found, %v", len(scripts), err)
	}
	node, err := filepath.Abs("node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		t.Run(script, func(t *testing.T) {
			st, err := stage.New("../../bin")
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}()
			cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=spec", "--test-timeout=120000", script)
			cmd.Env = append(st.Env, "AGENTLAB_E2E_BIN="+st.Bin("agentlab"))
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("%s: %v", script, err)
			}
		})
	}
}
