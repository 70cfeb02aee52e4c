//go:build vm

package template

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest/qemuguest"
)

// vmPatience bounds a build with machines that are emulated, on a busy host.
const vmPatience = 20 * time.Minute

// identity waits until a machine is set up, and prints what no other may have,
// each in a line: the name of it, and it.
const identity = `until [ -e /run/cloud-init/result.json ]; do sleep 1; done
grep -q '"errors": \[\]' /run/cloud-init/result.json || { cat /run/cloud-init/result.json; exit 1; }
[ "$(jq -n 6*7)" = 42 ] || exit
! grep 'Please login' /root/.ssh/authorized_keys || exit # cloud-init may keep root out
echo machine-id $(cat /etc/machine-id)
echo instance-id $(cat /var/lib/cloud/data/instance-id)
cut -d ' ' -f 1,2 /etc/ssh/ssh_host_*_key.pub
`

// TestTemplateOnVMs builds a template of a Debian that QEMU boots. Debian's own
// cloud-init installs packages there from a web server here. Two clones, one
// without a network, are machines of their own.
func TestTemplateOnVMs(t *testing.T) {
	image, err := qemuguest.CachedStock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, &pvetest.Server{Patience: 20 * time.Second})
	images, packages := serve(t, filepath.Dir(image.Disk)), serve(t, image.Packages)
	guests := &qemuguest.Guests{Stock: image, Dir: t.TempDir(), Mirror: packages.Port}
	l.srv.NewGuest, l.srv.Destroyed = guests.New, guests.Destroyed

	ctx, cancel := context.WithTimeout(t.Context(), vmPatience)
	defer cancel()
	b := l.builder()
	b.pause, b.undo = 0, 0
	b.Spec.Packages = []string{"jq"}
	b.Spec.Image = Image{URL: fmt.Sprintf("http://%s/%s", images, filepath.Base(image.Disk)), Checksum: sum512(t, image.Disk), Algorithm: "sha512"}
	b.Report = func(e Event) { t.Logf("%s %.1f s: %s", e.Step, e.Took.Seconds(), e.Detail) }
	var first, second string
	b.Try = func(ctx context.Context, vm pve.VM, full bool) error {
		cleanDisk(t, guests.Dir)
		var both errgroup.Group
		both.Go(func() (err error) {
			first, err = l.trial(ctx, b.Client, root(vm, full), "none", "[ ! -e /sys/class/net/eth0 ] || exit\n"+identity)
			return err
		})
		both.Go(func() (err error) {
			second, err = l.trial(ctx, b.Client, root(vm, full), "internet", identity+"ip -4 -o addr show eth0\n")
			return err
		})
		return both.Wait()
	}
	if _, err := b.Build(ctx); err != nil {
		t.Fatalf("%v\n%s", err, consoles(guests.Dir))
	}
	l.complete()
	t.Logf("clones:\n%s\n%s", first, second)
	lines := strings.Split(strings.TrimSpace(first), "\n")
	for _, line := range lines {
		name, _, _ := strings.Cut(line, " ")
		if strings.Contains(second, line) || !strings.Contains(second, name+" ") {
			t.Errorf("both clones have %s", line)
		}
	}
	if len(lines) < 3 || !strings.Contains(second, "inet 10.") {
		t.Error("something is missing")
	}
}

// serve publishes a directory on this machine.
func serve(t *testing.T, dir string) *net.TCPAddr {
	t.Helper()
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(web.Close)
	return web.Listener.Addr().(*net.TCPAddr)
}

func sum512(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// cleanDisk looks at the disk of the template while no machine runs that has it.
func cleanDisk(t *testing.T, guests string) {
	t.Helper()
	disks, err := filepath.Glob(guests + "/9000-*/disk.qcow2")
	if err != nil || len(disks) != 1 {
		t.Fatalf("the disk is one of %q, %v", disks, err)
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"qemu-img", "convert", "-O", "raw", disks[0], dir + "/raw"},
		{"debugfs", "-R", "rdump /etc /var /root " + dir, dir + "/raw"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // files of the test
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if id, err := os.ReadFile(dir + "/etc/machine-id"); err != nil || len(id) > 0 {
		t.Errorf("machine-id is %q, %v", id, err)
	}
	if what, err := os.ReadFile(dir + "/var/lib/dpkg/info/qemu-guest-agent.list"); err != nil || len(what) == 0 {
		t.Errorf("the agent is not installed: %v", err)
	}
	for _, gone := range []string{
		"etc/ssh/ssh_host_*", "etc/netplan/50-*", "var/lib/cloud/instance", "var/lib/cloud/instances", "var/lib/cloud/data", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
		"var/lib/dhcp/*", "var/log/journal/*", "var/lib/apt/lists/*Packages", "var/cache/apt/archives/*.deb", "root/.bash_history", "root/.ssh/authorized_keys",
	} {
		if left, err := filepath.Glob(filepath.Join(dir, gone)); err != nil || len(left) > 0 {
			t.Errorf("the disk has %q, %v", left, err)
		}
	}
	err = filepath.WalkDir(dir+"/var/log", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "wtmp" { // there systemd notes that it was switched off
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			t.Errorf("%s has %d bytes", strings.TrimPrefix(path, dir), info.Size())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// consoles is what the kernels and systemds of guests said last.
func consoles(dir string) string {
	files, _ := filepath.Glob(dir + "/*/console")
	var all []string
	for _, f := range slices.Sorted(slices.Values(files)) {
		text, _ := os.ReadFile(f) //nolint:gosec // a file of the test
		all = append(all, f+":", string(text[max(0, len(text)-4096):]))
	}
	return strings.Join(all, "\n")
}
