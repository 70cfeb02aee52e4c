package crashtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// host is this one, with the real runsc.
type host struct {
	st      *stage.Stage
	dir     string            // of the backend
	before  map[string]string // what there is of others, by its path
	another *exec.Cmd         // a process that looks like one of a machine, and is not
	ids     map[string]bool   // of all machines there were
	lost    []string          // what strip has left
}

// onHost is a world of local machines. What is another's is planted when the
// daemon has made its directories.
func onHost(t *testing.T, st *stage.Stage) world {
	t.Helper()
	if err := st.Configure("reconcile_every: 2s\n"); err != nil {
		t.Fatal(err)
	}
	if err := st.AddProfile("default", "backend: local\nmin_ttl: 1s\nmemory_mb: 128\n"); err != nil {
		t.Fatal(err)
	}
	return &host{st: st, dir: filepath.Join(st.Dir, "state", "agentlab", "local"), ids: map[string]bool{}}
}

func (*host) name() string { return "local" }

// plant puts there what must not be touched: directories that are in the place
// of machines, one without papers and one with those of another installation,
// and a process that says it serves the first.
func (h *host) plant(t *testing.T) {
	t.Helper()
	key, err := provisioner.NewKey(bytes.Repeat([]byte{7}, provisioner.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal(provisioner.Papers{Instance: "another", Sandbox: "sb-another"})
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"machines/sb-nobodys/precious":     "1",
		"machines/sb-another/config.json":  fmt.Sprintf(`{"annotations":{"agentlab.papers":%q}}`, sealed),
		"machines/sb-another/run/precious": "1",
	} {
		path := filepath.Join(h.dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o711), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	h.another = exec.Command("sh", "-c", "read x", "--bundle="+filepath.Join(h.dir, "machines", "sb-nobodys"))
	in, err := h.another.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.another.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), h.another.Wait() })
	h.before = h.others(t)
}

// others describes what there is of others.
func (h *host) others(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := unix.Kill(h.another.Process.Pid, 0); err == nil {
		all["process"] = "runs"
	}
	for _, name := range []string{"sb-nobodys", "sb-another"} {
		_ = filepath.WalkDir(filepath.Join(h.dir, "machines", name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			data, _ := os.ReadFile(path) // a directory has none
			all[path] = fmt.Sprintf("%v %v %x", info.Mode(), info.ModTime(), sha256.Sum256(data))
			return nil
		})
	}
	return all
}

func (h *host) touched(t *testing.T) []string {
	t.Helper()
	if h.another == nil {
		return nil
	}
	now := h.others(t)
	var changed []string
	for _, path := range slices.Sorted(maps.Keys(h.before)) {
		if now[path] != h.before[path] {
			changed = append(changed, fmt.Sprintf("%s was %q, is %q", path, h.before[path], now[path]))
		}
	}
	return changed
}

func (h *host) machines(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, "machines"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if e.Name() != "sb-nobodys" && e.Name() != "sb-another" {
			all = append(all, e.Name())
			h.ids[e.Name()] = true
		}
	}
	return all
}

func (h *host) left(t *testing.T) []string {
	t.Helper()
	left := h.machines(t)
	procs, err := h.st.Machines()
	if err != nil {
		t.Fatal(err)
	}
	left = append(left, procs...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, h.dir+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	patterns := []string{h.dir + "/runsc/*", h.dir + "/rootfs/.tmp-*", h.dir + "/machines/*/*.new"}
	for id := range h.ids {
		patterns = append(patterns, "/sys/fs/cgroup/agentlab/"+id+"-*", "/sys/fs/cgroup/*/agentlab/"+id+"-*")
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	return left
}

// config is the path of a machine's configuration, which holds its papers, and
// link that of the link whose target are its papers once they have changed.
func (h *host) config(id string) string { return filepath.Join(h.dir, "machines", id, "config.json") }
func (h *host) link(id string) string   { return filepath.Join(h.dir, "machines", id, "papers") }

func (h *host) papers(t *testing.T, id string) string {
	t.Helper()
	if target, err := os.Readlink(h.link(id)); err == nil {
		return target
	}
	data, err := os.ReadFile(h.config(id))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// slay kills the processes of the machine.
func (h *host) slay(t *testing.T) {
	t.Helper()
	for _, id := range h.machines(t) {
		h.killAll(t, id)
	}
}

func (h *host) take(t *testing.T) { t.Helper(); h.slay(t) }

func (h *host) killAll(t *testing.T, id string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.st.Bin("runsc"), "--root="+h.dir+"/runsc", "kill", id, "KILL")
	if os.Geteuid() != 0 {
		cmd.Args = slices.Insert(cmd.Args, 1, "--rootless")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// strip waits for the runsc that the daemon has begun before.
func (h *host) strip(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); h.starting(t); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a machine does not come up")
		}
	}
	for _, id := range h.machines(t) {
		if !strings.HasPrefix(id, ".tmp-") { // nobody's, and removed at each start
			h.rename(t, id, "agentlab.papers", "agentlab.nothing")
			h.move(t, h.link(id), h.link(id)+".away")
		}
	}
	h.lost = h.stripped(t)
}

// starting says that a runsc is making a machine.
func (h *host) starting(t *testing.T) bool {
	t.Helper()
	procs, err := h.st.Machines()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(procs, func(p string) bool { return strings.Contains(p, " run --detach ") })
}

func (h *host) bereft() []string { return h.lost }

// stripped names the machines by what there is of them on the disk and as processes.
func (h *host) stripped(t *testing.T) []string {
	t.Helper()
	procs, err := h.st.Machines()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, id := range h.machines(t) {
		data, err := os.ReadFile(h.config(id))
		if err != nil || !bytes.Contains(data, []byte("agentlab.nothing")) {
			continue
		}
		serving := 0
		for _, p := range procs {
			if strings.Contains(p, id) {
				serving++
			}
		}
		all = append(all, fmt.Sprintf("%s %x %d processes", id, sha256.Sum256(data), serving))
	}
	return all
}

// clear gives the papers back: the machines are then known again.
func (h *host) clear(t *testing.T) {
	t.Helper()
	for _, id := range h.machines(t) {
		h.rename(t, id, "agentlab.nothing", "agentlab.papers")
		h.move(t, h.link(id)+".away", h.link(id))
	}
}

// move renames what may not be there.
func (h *host) move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// rename changes the key under which a machine's papers are.
func (h *host) rename(t *testing.T, id, from, to string) {
	t.Helper()
	data, err := os.ReadFile(h.config(id))
	if errors.Is(err, fs.ErrNotExist) {
		return // a directory that is being made or removed
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.config(id), bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o600); err != nil {
		t.Fatal(err)
	}
}
