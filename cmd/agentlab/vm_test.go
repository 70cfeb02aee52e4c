//go:build vm

package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
)

// TestScriptsOnVMs runs scripts of the local backend, unchanged, on machines that
// QEMU boots. What they leave is seen as everywhere; their files are those of
// the machines, too.
func TestScriptsOnVMs(t *testing.T) {
	bin := programs(t)
	p := params(func(env *testscript.Env) error {
		dir := t.TempDir()
		sim, err := pvesim.NewVMs(t.Context(), dir, "8.4.21")
		if err != nil {
			return err
		}
		if err := useProxmox(env, bin, sim, overAPI); err != nil {
			return err
		}
		env.Defer(func() {
			if left, err := os.ReadDir(dir + "/guests"); err != nil || len(left) > 0 {
				t.Errorf("files of machines are left: %v, %v", left, err)
			}
		})
		return nil
	})
	for _, script := range []string{"sandbox", "killdaemon"} {
		p.Files = append(p.Files, "testdata/"+script+".txtar")
	}
	testscript.Run(t, p)
}
