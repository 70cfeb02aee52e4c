package local

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// A process in the middle of an execve, when it has no arguments, serves its
// machine as before.
func TestProcessIsFoundInExecve(t *testing.T) {
	if os.Getenv("AGENTLAB_TEST_EXECVE") != "" {
		execAgain(t)
	}
	st := &state{dir: t.TempDir(), uid: os.Geteuid()}
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho\nexec \"$0\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, program string
		execs         int
	}{
		{"one-thread", script, 300},
		{"many-threads", "/proc/self/exe", 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(tt.program, "-test.run=^TestProcessIsFoundInExecve$", "--", "--bundle="+filepath.Join(st.machinesDir(), "sb-1"))
			cmd.Env = append(os.Environ(), "AGENTLAB_TEST_EXECVE=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			enough := make(chan struct{})
			go func() {
				defer close(enough)
				lines := bufio.NewScanner(out)
				for range tt.execs {
					lines.Scan()
				}
			}()
			for {
				if id, _, ok := st.process(cmd.Process.Pid); !ok || id != "sb-1" {
					t.Fatalf("process of %q, %v", id, ok)
				}
				select {
				case <-enough:
					return
				default:
				}
			}
		})
	}
}

// execAgain executes this program anew, from a thread that is not the first.
func execAgain(t *testing.T) {
	_, _ = os.Stdout.WriteString("\n")
	failed := make(chan error)
	for range 2 {
		go func() {
			runtime.LockOSThread()
			if syscall.Gettid() != os.Getpid() {
				failed <- syscall.Exec("/proc/self/exe", os.Args, os.Environ())
			}
			select {} // holds the first thread
		}()
	}
	t.Fatal(<-failed)
}
