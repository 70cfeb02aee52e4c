//go:build e2e

package e2e_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// TestConformance runs the official suite on the product itself. The baselines
// name what wants tools, resources and prompts that only a test has; those are
// tried, on the same stack, by the test of this name in mcpserver. All else
// must pass, and what a baseline names must fail.
func TestConformance(t *testing.T) {
	st, err := stage.New("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	overHTTP(t, st)
	url, _ := strings.CutPrefix(st.Env[len(st.Env)-1], "AGENTLAB_E2E_URL=")
	node, err := filepath.Abs("node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), node, "node_modules/@modelcontextprotocol/conformance/dist/index.js", "server",
				"--url", url+"/mcp", "--suite", "all", "--spec-version", version,
				"--expected-failures", filepath.Join("testdata", "baseline-"+version+".yml"), "-o", t.TempDir())
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("conformance of the product: %v", err)
			}
		})
	}
}
