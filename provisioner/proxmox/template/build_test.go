package template

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestBuild(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		t.Run(version, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Version: version})
			got, err := l.builder().Build(l.ctx())
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != "debian-12" || got.VM.ID != 9000 || got.VM.Node != "pve" || got.Existing || len(got.Steps) != 9 {
				t.Errorf("result %+v", got)
			}
			l.complete()
			_, cfg := l.template()
			for k, want := range map[string]string{
				"template": "1", "agent": "enabled=1", "ide2": "local:9000/vm-9000-cloudinit.qcow2,media=cdrom", "boot": "order=scsi0",
				"ipconfig0": "ip=dhcp", "cores": "2", "memory": "2048", "serial0": "socket",
			} {
				if cfg[k] != want {
					t.Errorf("%s: %q, want %q", k, cfg[k], want)
				}
			}
			if !strings.Contains(cfg["scsi0"], "size=8G") || !strings.Contains(cfg["net0"], "bridge=vmbr0") {
				t.Errorf("disk %q, network %q", cfg["scsi0"], cfg["net0"])
			}
			if packages := l.guestFile(9000, "var/lib/pvetest/packages"); packages != "qemu-guest-agent\ncurl\ngit" {
				t.Errorf("packages %q", packages)
			}

			again, err := l.builder().Build(l.ctx())
			if err != nil || !again.Existing || again.VM != got.VM {
				t.Errorf("built again: %+v, %v", again, err)
			}
			l.complete()
		})
	}
}

// A storage that makes no linked clones will do if there is no other: the
// sandbox is a full clone then, and that profiles must say so is told. What is
// no storage for files is not taken for one, though it has images to import.
func TestOtherStorages(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.Storages[0].Content = "iso,import"
		c.Storages = append(c.Storages, &pvetest.Storage{ID: "esx", Type: "esxi", Content: "import", Size: 1 << 50},
			&pvetest.Storage{ID: "san", Type: "lvm", Content: "images", Size: 1 << 40})
		grant(c, "/storage/san", "Datastore.AllocateSpace", "Datastore.Audit")
		grant(c, "/storage/esx", "Datastore.Allocate", "Datastore.AllocateTemplate", "Datastore.Audit")
	})
	b := l.builder()
	said := map[string]string{}
	b.Report = func(e Event) { said[e.Step] = e.Detail }
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said["check"], "disk on san, image on local, drive on local") || !strings.Contains(said["verify"], "san makes no linked clones, so that profiles need clone: full") {
		t.Errorf("told: %q", said)
	}
	b = l.builder()
	b.Spec.ImageStorage = "esx"
	if _, err := b.Build(l.ctx()); err == nil || !strings.Contains(err.Error(), "no storage esx on node pve that is active, can hold content import") {
		t.Errorf("with an image storage that keeps no files: %v", err)
	}
}

// Nothing that identifies the machine is left on the disk.
func TestDiskIsClean(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	seen := map[string]string{}
	identity := []string{
		"etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "var/lib/dhcp/dhclient.eth0.leases", "var/log/cloud-init.log",
		"var/log/syslog", "root/.bash_history", "var/lib/systemd/random-seed", "var/lib/cloud/data/instance-id", "var/lib/cloud/instance/user-data.txt", "var/lib/apt/lists/stock",
	}
	b := l.builder()
	report := b.Report
	b.Report = func(e Event) {
		if report(e); e.Step == "clean" && e.Took == 0 {
			for _, f := range identity {
				seen[f] = l.guestFile(9000, f)
			}
		}
	}
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	for _, f := range identity {
		if after := l.guestFile(9000, f); after != "" || seen[f] == "" {
			t.Errorf("%s was %q before, and is %q after", f, seen[f], after)
		}
	}
}

// The image is left for the next build if that is wanted, which then downloads
// nothing.
func TestKeepImage(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	b := l.builder()
	b.KeepImage = true
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	var images int
	for _, what := range l.everything() {
		if strings.HasPrefix(what, "volume local:import/agentlab-") {
			images++
		}
	}
	if images != 1 {
		t.Errorf("%d images are left: %q", images, l.everything())
	}
	l.web.Close() // it is gone from the web
	second := l.builder()
	second.Spec.Name = "other"
	if _, err := second.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"VM 9000 debian-12", "VM 9001 other", "volume local:9000/base-9000-disk-0.qcow2", "volume local:9000/vm-9000-cloudinit.qcow2",
		"volume local:9001/base-9001-disk-0.qcow2", "volume local:9001/vm-9001-cloudinit.qcow2",
	}
	if diff := cmp.Diff(want, l.everything()); diff != "" {
		t.Errorf("there are (-want +got):\n%s", diff)
	}
}

// What is there already under the name or the VMID is not touched, be it built
// otherwise, or somebody else's.
func TestTaken(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*lab, *Builder)
		says    string
	}{
		"another-recipe": {func(l *lab, b *Builder) {
			if _, err := l.builder().Build(l.ctx()); err != nil {
				l.t.Fatal(err)
			}
			b.Spec.Packages = []string{"jq"}
		}, "was built otherwise"},
		"foreign-name": {func(l *lab, _ *Builder) {
			l.srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 300, "debian-12") })
		}, "machine 300 on pve is called debian-12 and is not ours"},
		"foreign-vmid": {func(_ *lab, b *Builder) { b.Spec.VMID = 200 }, "VMID 200 is taken by machine \"of-somebody-else\""},
		"forged": {func(l *lab, _ *Builder) { // a copy of our papers on another machine
			text, err := seal(l.builder().Key, 301, papers{"debian-12", draft, "x"}, "y")
			if err != nil {
				l.t.Fatal(err)
			}
			l.srv.Edit(func(c *pvetest.Cluster) {
				vm := c.AddVM("pve", 300, "debian-12")
				vm.Config["description"], vm.Config["tags"] = text, buildTag
			})
		}, "is not ours"},
		"untagged": {func(l *lab, _ *Builder) { // somebody made it his own
			text, err := seal(l.builder().Key, 300, papers{"debian-12", draft, "x"}, "y")
			if err != nil {
				l.t.Fatal(err)
			}
			l.srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 300, "debian-12").Config["description"] = text })
		}, "is not ours"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: -1})
			b := l.builder()
			tt.prepare(l, b)
			before := l.describe()
			_, err := b.Build(l.ctx())
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one about %q", err, tt.says)
			}
			if diff := cmp.Diff(before, l.describe()); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		})
	}
}

// describe is all configurations and volumes.
func (l *lab) describe() []string {
	all := l.everything()
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			all = append(all, fmt.Sprint(id, vm.Running, vm.Config))
		}
	})
	slices.Sort(all)
	return all
}
