package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A process in the middle of an execve, when it has no arguments, serves its
// machine as before.
func TestProcessIsFoundInExecve(t *testing.T) {
	st := &state{dir: t.TempDir(), uid: os.Geteuid()}
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec \"$0\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script, "--bundle="+filepath.Join(st.machinesDir(), "sb-1"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for i := range 2_000 {
		if id, _, ok := st.process(cmd.Process.Pid); !ok || id != "sb-1" {
			t.Fatalf("look %d: process of %q, %v", i, id, ok)
		}
	}
}
