package template

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// program replaces one of a guest's.
func (l *lab) program(name, text string) { l.guests.Programs = map[string]string{name: text} }

// What fails says why and, where that can be known, what mends it, and leaves
// nothing.
func TestFailuresLeaveNothing(t *testing.T) {
	storage := func(change func(*pvetest.Storage)) func(*lab, *Builder) {
		return func(l *lab, _ *Builder) { l.srv.Edit(func(c *pvetest.Cluster) { change(c.Storages[0]) }) }
	}
	for name, tt := range map[string]struct {
		spoil func(*lab, *Builder)
		says  string
	}{
		"wrong-checksum": {func(_ *lab, b *Builder) { b.Spec.Image.Checksum = strings.Repeat("0", 128) }, "image: download http.*: task download: checksum mismatch: got '"},
		"not-published":  {func(_ *lab, b *Builder) { b.Spec.Image.URL += "x" }, "download failed: exit code 8"},
		"nobody-there":   {func(l *lab, _ *Builder) { l.web.Close() }, "Connection refused"},
		"no-image":       {func(l *lab, b *Builder) { l.image = []byte("a web page"); b.Spec.Image = l.builder().Spec.Image }, "Image is not in qcow2 format"},
		"no-import":      {storage(func(s *pvetest.Storage) { s.Content = "images,iso" }), `no storage of node pve takes content "import"; run on a node: pvesm set local --content images,iso,import`},
		"no-iso":         {storage(func(s *pvetest.Storage) { s.Content = "images,import" }), `pvesm set local --content images,import,iso`},
		"no-images":      {storage(func(s *pvetest.Storage) { s.Content = "import,iso" }), `pvesm set local --content import,iso,images`},
		"full":           {storage(func(s *pvetest.Storage) { s.Full = true }), "No space left on device"},
		"image-too-big":  {func(l *lab, b *Builder) { l.image = qcow2(20 << 30); b.Spec.Image = l.builder().Spec.Image }, "grow the disk to 8G: task resize: shrinking disks is not supported"},
		"no-bridge":      {func(_ *lab, b *Builder) { b.Spec.Bridge = "vmbr7" }, `node pve has no bridge "vmbr7" that we may use, but vmbr0`},
		"no-node":        {func(_ *lab, b *Builder) { b.Spec.Node = "nosuch" }, "hostname lookup 'nosuch' failed"},
		"no-storage":     {func(_ *lab, b *Builder) { b.Spec.Storage = "nosuch" }, "there is no storage nosuch on node pve"},
		"no-packages":    {func(l *lab, _ *Builder) { l.program("apt-get", "echo no route; exit 100") }, "boot: machine 9000 on pve switched itself off before it had a guest agent: .*no DHCP on vmbr0.*qm terminal 9000"},
		"package-and-agent": {func(l *lab, _ *Builder) { // the image has an agent, and so can say what is wrong
			l.program("apt-get", ": >/var/lib/pvetest/agent; echo >/var/lib/pvetest/agent-fifo; echo E: Unable to locate package; exit 100")
		}, "boot: the first boot failed: apt-get .* update\nE: Unable to locate package"},
		"unclean": {func(l *lab, _ *Builder) { l.program("cloud-init", "") }, `clean: the guest could not be cleaned \(exit code 1, signal 0\): /var/lib/cloud/instance is still there`},
		"no-use": {func(_ *lab, b *Builder) {
			b.Try = func(context.Context, pve.VM, bool) error { return errors.New("it does not answer") }
		}, "verify: it does not answer"},
		"vmid-race": {func(l *lab, b *Builder) {
			b.Spec.VMID = 9100
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) == "POST qemu" {
					return &pvetest.Fault{Status: 500, Reason: "unable to create VM 9100: config file already exists"}
				}
				return nil
			})
		}, "VMID 9100 was taken meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, &pvetest.Server{})
			b := l.builder()
			tt.spoil(l, b)
			_, err := b.Build(l.ctx())
			if err == nil || !matches(tt.says, err.Error()) {
				t.Errorf("error %v, want one like %q", err, tt.says)
			}
			l.empty()
		})
	}
}

// While the machine of a build that failed is being stopped, its VMID goes to
// somebody else's.
func TestRemoveLooksAgainAfterTheStop(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.program("cloud-init", "")
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST stop" {
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[9000].Config["description"] = "mine" })
		}
		return nil
	})
	if _, err := l.builder().Build(l.ctx()); !errors.Is(err, errNotOurs) {
		t.Errorf("error %v", err)
	}
	if calls := l.called(); slices.Contains(calls, "DELETE ") || !slices.Contains(calls, "POST stop") {
		t.Errorf("it was destroyed: %v", calls)
	}
}

// However much a guest says, its end is told.
func TestGuestSaysMuch(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.program("cloud-init", "yes é | head -c 100000; echo in the end")
	_, err := l.builder().Build(l.ctx())
	if err == nil || len(err.Error()) > 2200 || !utf8.ValidString(err.Error()) || !strings.Contains(err.Error(), "in the end\n/var/lib/cloud/instance is still there") {
		t.Errorf("error %v", err)
	}
	l.empty()
}

// What a build that fails has made is there for a look, if that is wanted, and
// the next build begins anew.
func TestKeep(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.program("apt-get", "exit 100")
	b := l.builder()
	b.Keep = true
	if _, err := b.Build(l.ctx()); err == nil || strings.Contains(err.Error(), "undo") {
		t.Fatalf("error %v", err)
	}
	if id, cfg := l.template(); id != 9000 || cfg["tags"] != buildTag || !strings.Contains(cfg["description"], "AgentLab builds the template debian-12") {
		t.Errorf("machine %d is %v", id, cfg)
	}
	l.guests.Programs = nil
	if _, err := l.builder().Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	l.complete()
}

// A guest that never comes up is given up when the time is over, and what the
// first boot was about is named.
func TestGuestNeverComesUp(t *testing.T) {
	l := newLab(t, &pvetest.Server{Patience: 20 * time.Millisecond})
	l.program("apt-get", "sleep 600")
	ctx, cancel := context.WithCancel(l.ctx())
	b := l.builder()
	asked := 0
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "GET file-read" {
			if asked++; asked == 3 {
				cancel()
			}
		}
		return nil
	})
	_, err := b.Build(ctx)
	if err == nil || !strings.Contains(err.Error(), "gave up waiting for the guest agent of machine 9000 on pve") || !strings.Contains(err.Error(), "qm terminal 9000") {
		t.Errorf("error %v", err)
	}
	l.empty()
}

// Whichever step it is given up in, nothing is left.
func TestGivenUp(t *testing.T) {
	for _, at := range []string{"look", "image", "import", "boot", "clean", "convert", "verify", "tidy"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, &pvetest.Server{})
			ctx, cancel := context.WithCancel(l.ctx())
			b := l.builder()
			b.Report = func(e Event) {
				if e.Step == at && e.Took == 0 {
					cancel()
				}
			}
			_, err := b.Build(ctx)
			if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), at+": ") {
				t.Errorf("error %v", err)
			}
			if at == "tidy" { // it is whole by then
				l.complete()
				return
			}
			l.empty()
		})
	}
}

// A task that is under way when the build is given up is aborted.
func TestGivenUpWithinATask(t *testing.T) {
	for _, task := range []string{"download", "imgcopy", "qmcreate", "resize", "qmstart", "qmtemplate"} {
		t.Run(task, func(t *testing.T) {
			t.Parallel()
			srv := &pvetest.Server{TaskTime: map[string]time.Duration{task: -1}} // until it is stopped
			l := newLab(t, srv)
			ctx, cancel := context.WithCancel(l.ctx())
			defer cancel()
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if strings.Contains(r.URL.Path, ":"+task+":") { // its status is asked for
					cancel()
				}
				return nil
			})
			if _, err := l.builder().Build(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			l.empty()
		})
	}
}

// Each privilege that is missing is named, and nothing is begun.
func TestEachPrivilegeIsNeededAndNamed(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		v := pve.Version{Major: int(version[0] - '0'), Minor: 4}
		for _, g := range Grants(v, "pve", "local", "local", "local", "vmbr0", testPool) {
			for _, priv := range g.Privs {
				if g.Path == "/storage/local" && priv == "Datastore.Audit" {
					continue // any right on a storage lets it be seen
				}
				t.Run(fmt.Sprintf("%s%s-%s", version, strings.ReplaceAll(g.Path, "/", "-"), priv), func(t *testing.T) {
					l := newLab(t, &pvetest.Server{Version: version})
					l.srv.Edit(func(c *pvetest.Cluster) {
						role := c.Roles["R"+strings.ReplaceAll(g.Path, "/", "-")]
						role.Privs = slices.DeleteFunc(role.Privs, func(p string) bool { return p == priv })
					})
					_, err := l.builder().Build(l.ctx())
					if err == nil || !strings.Contains(err.Error(), priv) {
						t.Errorf("error %v, want one that names %s", err, priv)
					}
					for _, call := range l.called() {
						if !strings.HasPrefix(call, "GET ") {
							t.Errorf("%s was called", call)
						}
					}
				})
			}
		}
	}
}

// What holds for /vms alone is of no use for the machines there.
func TestPrivilegesMustPropagate(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		for i := range c.ACL {
			c.ACL[i].Propagate = c.ACL[i].Path != "/vms"
		}
	})
	if _, err := l.builder().Build(l.ctx()); err == nil || !strings.HasPrefix(err.Error(), "check: ") || !strings.Contains(err.Error(), "VM.Allocate, VM.Audit, ") || !strings.Contains(err.Error(), "on /vms and below (propagate)") {
		t.Errorf("error %v", err)
	}
	l.empty()
}

func TestOldProxmox(t *testing.T) {
	l := newLab(t, &pvetest.Server{Version: "8.3.5"})
	_, err := l.builder().Build(l.ctx())
	if err == nil || !strings.Contains(err.Error(), "this is Proxmox VE 8.3.5") || !strings.Contains(err.Error(), "from 8.4 on") {
		t.Errorf("error %v", err)
	}
	l.empty()
}

func TestInvalidSpec(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*Spec)
		says  string
	}{
		"name":     {func(s *Spec) { s.Name = "a b" }, `name: got "a b", want a DNS name`},
		"no-name":  {func(s *Spec) { s.Name = "" }, `name: got ""`},
		"node":     {func(s *Spec) { s.Node = "a/../b" }, `node: got "a/../b", want the name of a node`},
		"storage":  {func(s *Spec) { s.Storage = ".." }, `storage: got "..", want the name of a storage`},
		"images":   {func(s *Spec) { s.ImageStorage = "x/y" }, `image-storage: got "x/y", want the name of a storage`},
		"bridge":   {func(s *Spec) { s.Bridge = "../vmbr0" }, `bridge: got "../vmbr0", want the name of a bridge`},
		"package":  {func(s *Spec) { s.Packages = []string{"curl; reboot"} }, `packages: got "curl; reboot"`},
		"option":   {func(s *Spec) { s.Packages = []string{"--force"} }, `packages: got "--force"`},
		"vmid":     {func(s *Spec) { s.VMID = 99 }, "vmid: got 99, want 100 to 999999999"},
		"cores":    {func(s *Spec) { s.Cores = -1 }, "cores: got -1, want 1 to 128"},
		"memory":   {func(s *Spec) { s.MemoryMB = 16 }, "memory: got 16 MB, want at least 512"},
		"size":     {func(s *Spec) { s.Size = "8" }, `size: got "8", want a number and M, G or T`},
		"url":      {func(s *Spec) { s.Image.URL = "file:///etc/passwd" }, `url: got "file:///etc/passwd", want http`},
		"packed":   {func(s *Spec) { s.Image.URL = "https://host/disk.raw.xz" }, "is packed (.xz)"},
		"checksum": {func(s *Spec) { s.Image.Checksum = "12" }, `checksum: got "sha512:12"`},
		"md5":      {func(s *Spec) { s.Image.Algorithm = "md5" }, `checksum: got "md5:`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			b := l.builder()
			tt.spoil(&b.Spec)
			_, err := b.Build(l.ctx())
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one about %q", err, tt.says)
			}
			if calls := l.called(); len(calls) > 0 {
				t.Errorf("calls were made: %q", calls)
			}
		})
	}
}

// A machine that somebody has made his own in the meantime is left alone, and
// that is said.
func TestNotOursAnyMore(t *testing.T) {
	for name, change := range map[string]func(cfg map[string]string){
		"untagged": func(cfg map[string]string) { delete(cfg, "tags") }, "renamed": func(cfg map[string]string) { cfg["name"] = "mine" },
		"described": func(cfg map[string]string) { cfg["description"] = "mine" },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			b := l.builder()
			b.Report = func(e Event) {
				if e.Step == "clean" && e.Took == 0 {
					l.srv.Edit(func(c *pvetest.Cluster) { change(c.VMs[9000].Config) })
				}
			}
			_, err := b.Build(l.ctx())
			if !errors.Is(err, errNotOurs) || !strings.Contains(err.Error(), "machine 9000 on pve was changed by somebody else") ||
				!strings.Contains(err.Error(), "undo: remove machine 9000 on pve: it does not say that AgentLab is building it") {
				t.Errorf("error %v", err)
			}
			if id, cfg := l.template(); id != 9000 || cfg["scsi0"] == "" {
				t.Errorf("it is gone: %d %v", id, cfg)
			}
		})
	}
}
