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

// Only the bundle says whose a process is, however it is named, and only if it runs
// as the user that our machines run as: anybody can name a bundle.
func TestProcessOfMachine(t *testing.T) {
	st := &state{dir: t.TempDir(), uid: os.Geteuid()}
	bundle := filepath.Join(st.machinesDir(), "sb-1")
	for _, tt := range []struct {
		name, want string
		args       []string
		user       int // ours, counted from that of the process
	}{
		{"joined", "sb-1", []string{"run", "--bundle=" + bundle, "sb-1"}, 0},
		{"apart", "sb-1", []string{"gofer", "--bundle", bundle, "--spec-fd=3"}, 0},
		{"other-place", "", []string{"run", "--bundle=/elsewhere/sb-1"}, 0},
		{"below", "", []string{"run", "--bundle=" + bundle + "/sub"}, 0},
		{"mentioned", "", []string{"run", bundle}, 0},
		{"of-another-user", "", []string{"run", "--bundle=" + bundle, "sb-1"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := &state{dir: st.dir, uid: st.uid + tt.user}
			cmd := exec.Command("sh", append([]string{"-c", "read line; exit", "runsc"}, tt.args...)...)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = in.Close()
				_ = cmd.Wait()
			}()
			if id, _, err := st.process(cmd.Process.Pid); id != tt.want || err != nil {
				t.Errorf("process of %q, %v, want %q", id, err, tt.want)
			}
		})
	}
}

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
				if id, _, err := st.process(cmd.Process.Pid); err != nil || id != "sb-1" {
					t.Fatalf("process of %q, %v", id, err)
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

// The number of a process that has ended may be another's by the time that it is
// to be killed.
func TestKillLooksWhoseTheProcessIs(t *testing.T) {
	st := &state{dir: t.TempDir(), uid: os.Geteuid()}
	other := exec.Command("sh", "-c", "read line; exit 7", "runsc", "--bundle="+filepath.Join(st.machinesDir(), "sb-2"))
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if err := st.kill(t.Context(), "sb-1", other.Process.Pid); err != nil {
		t.Error(err)
	}
	_ = in.Close()
	if _ = other.Wait(); other.ProcessState.ExitCode() != 7 {
		t.Errorf("the process of another machine: %v", other.ProcessState)
	}
}
