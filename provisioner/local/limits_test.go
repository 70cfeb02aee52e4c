package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// What a program in a machine takes hits the machine's own limits, and the
// machine goes on.
func TestLimits(t *testing.T) {
	p := newPlace(t, programs(t))
	spec := testSpec("sb-limits")
	ref := p.create(t, spec)
	for _, tt := range []struct {
		name, command string
		check         func(t *testing.T, out string)
	}{
		{"disk", "yes | head -c 100G > /workspace/x; stat -c %s /workspace/x; rm /workspace/x", func(t *testing.T, out string) {
			if !strings.Contains(out, "No space left") || !strings.Contains(out, "209715200") {
				t.Errorf("want ENOSPC at 200 MB, got %q", out)
			}
		}},
		{"shared-memory", "yes | head -c 1G > /dev/shm/x; rm /dev/shm/x", func(t *testing.T, out string) {
			if !strings.Contains(out, "No space left") {
				t.Errorf("want ENOSPC, got %q", out)
			}
		}},
		{"processes", "for i in $(seq 400); do sleep 1000 & done; echo not reached", func(t *testing.T, out string) {
			if strings.Contains(out, "not reached") || !strings.Contains(out, "fork") {
				t.Errorf("400 processes in a machine of 200: %.300q", out)
			}
		}},
		{"memory", "perl -e '$x = \"x\" x (1 << 30); print length $x'", func(t *testing.T, out string) {
			if strings.Contains(out, "1073741824") {
				t.Errorf("1 GB of memory in a machine of 256 MB: %q", out)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := p.sh(t, ref, "("+tt.command+")\nkill -9 0") // a builtin, so there need be no room for it
			tt.check(t, out)
			out, exit, err := p.try(t, ref, "echo alive")
			for errors.Is(err, guest.ErrBusy) || exit.OOM { // what was killed gives its place and memory back a moment later
				out, exit, err = p.try(t, ref, "echo alive")
			}
			if err != nil || out != "alive" {
				t.Errorf("afterwards the machine says %q, %v", out, err)
			}
			p.wantRunning(t, ref.Sandbox, true)
		})
	}
}

// An ordinary user's machine, and one where cgroups can't be had, is bound to
// as many CPUs as it may use; the daemon itself is not.
func TestStartOnSomeCPUs(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= all.Count(); n++ {
		some := pick(all, n)
		if some.Count() != n {
			t.Errorf("pick(%d) picked %d", n, some.Count())
		}
		for i := range 1024 {
			if some.IsSet(i) && !all.IsSet(i) {
				t.Errorf("pick(%d) picked CPU %d, which is not ours", n, i)
			}
		}
	}
}

// Root's machines stand behind walls of the host, a bit further out.
func TestCgroupWalls(t *testing.T) {
	p := newPlace(t, programs(t))
	if !p.st.cgroups {
		t.Log("no cgroups for us here: Check and the docs say what holds then")
		return
	}
	ref := p.create(t, testSpec("sb-walls"))
	files := map[string]string{
		"memory/memory.limit_in_bytes": fmt.Sprint(memoryWall(256)),
		"pids/pids.max":                "1424",
		"cpu/cpu.cfs_quota_us":         "100000",
	}
	if unified() {
		files = map[string]string{"memory.max": fmt.Sprint(memoryWall(256)), "pids.max": "1424", "cpu.max": "100000 100000"}
	}
	for file, want := range files {
		controller, name := filepath.Split(file)
		path := filepath.Join(cgroupRoot, controller, cgroupParent, p.st.cgroupName(ref.Sandbox), name)
		got, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s holds %q (%v), want %s", path, got, err, want)
		}
		procs, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup.procs"))
		if err != nil || len(strings.Fields(string(procs))) < 2 {
			t.Errorf("in %s are processes %q (%v), want the sandbox and its file server", filepath.Dir(path), procs, err)
		}
	}
}
