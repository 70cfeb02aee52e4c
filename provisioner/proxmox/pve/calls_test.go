package pve_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

func vm(id int) pve.VM { return pve.VM{Node: "pve", ID: id} }

const clientKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEujzSCB5AGIkF8slj5KCUp1o83iwZ6z+S+6GeN8DOJ4 client"

// started adapts a call that starts a task.
func started(f func(*pve.Client, context.Context) (pve.UPID, error)) func(*pve.Client, context.Context) (any, error) {
	return func(c *pve.Client, ctx context.Context) (any, error) {
		id, err := f(c, ctx)
		return id.Type() + " " + id.ID(), err
	}
}

// done adapts a call that returns nothing.
func done(f func(*pve.Client, context.Context) error) func(*pve.Client, context.Context) (any, error) {
	return func(c *pve.Client, ctx context.Context) (any, error) { return nil, f(c, ctx) }
}

// Each call must send what a real server was sent, and understand what it answered.
func TestCallsAsRecorded(t *testing.T) {
	tests := []struct {
		title string
		call  func(*pve.Client, context.Context) (any, error)
		want  any
	}{
		{"10 version", func(c *pve.Client, ctx context.Context) (any, error) { return c.Version(ctx) }, pve.Version{Major: 8, Minor: 4, Patch: 21}},
		{"10 cluster/nextid", func(c *pve.Client, ctx context.Context) (any, error) { return c.NextID(ctx) }, 100},
		{"10 cluster/nextid?vmid=<free>", done(func(c *pve.Client, ctx context.Context) error { return c.IDFree(ctx, 555) }), nil},
		{"10 nodes", func(c *pve.Client, ctx context.Context) (any, error) {
			n, err := c.Nodes(ctx)
			return []any{len(n), n[0].Name, n[0].Online(), n[0].MaxMem}, err
		}, []any{1, "pve", true, pve.Int(25276514304)}},
		{"10 nodes", func(c *pve.Client, ctx context.Context) (any, error) { return c.LocalNode(ctx) }, "pve"},
		{"10 node status", func(c *pve.Client, ctx context.Context) (any, error) {
			s, err := c.NodeStatus(ctx, "pve")
			return []any{s.Memory.Free, s.CPUInfo.CPUs}, err
		}, []any{pve.Int(22415962112), pve.Int(2)}},
		{"10 cluster/resources?type=vm", func(c *pve.Client, ctx context.Context) (any, error) {
			rs, err := c.Resources(ctx, "vm")
			var got []any
			for _, r := range rs {
				got = append(got, r.VM(), r.Name, bool(r.Template), pve.SplitTags(string(r.Tags)))
			}
			return got, err
		}, []any{
			vm(101), pve.Text("m1"), false, []string{"mcp", "mini"},
			vm(110), pve.Text("work-110"), false, []string{"mcp", "mini"},
			vm(9000), pve.Text("tmpl-debian12"), true, []string{},
			vm(9001), pve.Text("tmpl-mini"), true, []string{"mcp", "mini"},
		}},
		{"10 storage list on node", func(c *pve.Client, ctx context.Context) (any, error) {
			s, err := c.Storages(ctx, "pve")
			return []any{s[0].Name, s[0].Holds("import"), s[0].Holds("rootdir"), s[0].Avail}, err
		}, []any{"local", true, false, pve.Int(65303945216)}},
		{"10 storage status", func(c *pve.Client, ctx context.Context) (any, error) {
			s, err := c.Storage(ctx, "pve", "local")
			return []any{s.Name, bool(s.Active)}, err
		}, []any{"local", true}},
		{"10 storage content (images)", func(c *pve.Client, ctx context.Context) (any, error) {
			v, err := c.Volumes(ctx, "pve", "local", "images", 0)
			return []any{len(v), v[5].ID, v[5].VMID, v[5].Parent}, err
		}, []any{8, "local:9001/base-9001-disk-0.qcow2/101/vm-101-disk-0.qcow2", pve.Int(101), pve.Text("../9001/base-9001-disk-0.qcow2")}},
		{"73 download-url: right checksum", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.DownloadURL(ctx, "pve", "local", pve.Download{URL: "http://127.0.0.1:9999/mini.qcow2", Filename: "mini.qcow2", Content: "import",
				Checksum: "19407f0494439e30dc44a3c099657246a500687af97f2584deadb6a8ecea76a9", Algorithm: "sha256"})
		}), "download mini.qcow2"},
		{"73 root DELETE local:import/small.qcow2", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.DeleteVolume(ctx, "pve", "local", "local:import/small.qcow2")
		}), "imgdel local"},
		{"01 config of template", func(c *pve.Client, ctx context.Context) (any, error) {
			cfg, err := c.Config(ctx, vm(9000))
			return []any{cfg.Template(), cfg.AgentEnabled(), cfg.Int("cores"), cfg.Int("memory"), cfg.Drives(),
				pve.ParseProperties(cfg["net0"]).First(), cfg.Digest(), cfg.Tags()}, err
		}, []any{true, true, 2, 768, []string{"ide2", "scsi0"}, "BC:24:11:95:7B:5B", "b82c8488e087c6fb281654103f2b3d1e0383a580", []string{}}},
		{"01 status/current of template", func(c *pve.Client, ctx context.Context) (any, error) {
			s, err := c.Status(ctx, vm(9000))
			return []any{s.Running(), bool(s.Agent), bool(s.Template), s.Name}, err
		}, []any{false, true, true, pve.Text("tmpl-debian12")}},
		{"01 convert to template", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.ConvertToTemplate(ctx, vm(9000))
		}), "qmtemplate 9000"},
		{"05 destroy", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Delete(ctx, vm(200)) }), "qmdestroy 200"},
		{"20 PUT config (sync, returns null): cloud-init values", done(func(c *pve.Client, ctx context.Context) error {
			return c.SetConfig(ctx, vm(110), pve.Change{Set: map[string]string{
				"ipconfig0": "ip=dhcp", "ciuser": "agent", "sshkeys": pve.SSHKeys(clientKey), "tags": "agentlab;run-1",
				"description": "line1\nline2 äöü", "agent": "enabled=1", "cores": "1", "memory": "512", "net0": "virtio,bridge=vmbr0",
			}})
		}), nil},
		{"20 POST config (async, returns UPID)", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.StartSetConfig(ctx, vm(110), pve.Change{Set: map[string]string{"description": "async"}})
		}), "qmconfig 110"},
		{"20 resize disk +1G", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.Resize(ctx, vm(110), "scsi0", "+1G", "")
		}), "resize 110"},
		{"10 missing VM: POST status/start", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Start(ctx, vm(4711)) }), "qmstart 4711"},
		{"30 suspend (pause)", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Suspend(ctx, vm(110)) }), "qmpause 110"},
		{"30 resume", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Resume(ctx, vm(110)) }), "qmresume 110"},
		{"30 shutdown with timeout=3 forceStop=1", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Shutdown(ctx, vm(110), 3, true) }), "qmshutdown 110"},
		{"30 stop with timeout=1", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.Stop(ctx, vm(110), pve.StopOptions{Timeout: 1})
		}), "qmstop 110"},
		{"31 stop with overrule-shutdown=1", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.Stop(ctx, vm(170), pve.StopOptions{OverruleShutdown: true})
		}), "qmstop 170"},
		{"50 snapshot list", func(c *pve.Client, ctx context.Context) (any, error) { return c.Snapshots(ctx, vm(110)) },
			[]pve.Snapshot{{Name: "s1", Description: "first", Time: 1795452920}}},
		{"60 create pool mcp", done(func(c *pve.Client, ctx context.Context) error { return c.CreatePool(ctx, "mcp", "sandboxes") }), nil},
		{"60 pools?poolid=mcp", func(c *pve.Client, ctx context.Context) (any, error) {
			p, err := c.Pool(ctx, "mcp")
			return []any{p.ID, p.Members[0].VM(), p.Members[0].Status}, err
		}, []any{"mcp", vm(150), "unknown"}},
		{"60 own permissions", func(c *pve.Client, ctx context.Context) (any, error) {
			p, err := c.Permissions(ctx, "")
			propagates, known := p["/vms/150"]["VM.Audit"]
			return []any{bool(p["/vms/9001"]["VM.Clone"]), bool(propagates), known}, err
		}, []any{true, false, true}},
		{"60 create role MCPTemplate", done(func(c *pve.Client, ctx context.Context) error {
			return c.CreateRole(ctx, "MCPTemplate", []string{"VM.Audit", "VM.Clone"})
		}), nil},
		{"60 role back", done(func(c *pve.Client, ctx context.Context) error {
			return c.SetRole(ctx, "MCPVM", strings.Split("VM.Audit,VM.Allocate,VM.PowerMgmt,VM.Monitor,VM.Config.Cloudinit,VM.Config.Options,VM.Config.CPU,"+
				"VM.Config.Memory,VM.Config.Disk,VM.Config.Network,VM.Snapshot,VM.Snapshot.Rollback,Pool.Audit", ","))
		}), nil},
		{"60 ACL template for user and token", done(func(c *pve.Client, ctx context.Context) error {
			return c.Grant(ctx, "/vms/9001", "MCPTemplate", "agent@pve", "sep")
		}), nil},
		{"60 acl list", func(c *pve.Client, ctx context.Context) (any, error) {
			l, err := c.ACLs(ctx)
			return slices.Contains(l, pve.ACL{Path: "/pool/mcp", Role: "MCPVM", Type: "user", Holder: "agent@pve", Propagate: true}), err
		}, true},
		{"25 abort the running clone: DELETE task", done(func(c *pve.Client, ctx context.Context) error {
			return c.AbortTask(ctx, "UPID:pve:000006D7:00042F2F:6B0468A4:qmclone:9001:root@pam!mcp:")
		}), nil},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.title, " ", "_"), func(t *testing.T) {
			got, err := tt.call(replay(t, tt.title), t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// A clone says full=0 where the recorded one says nothing: the default differs
// between templates and machines.
func TestCloneSaysWhetherItIsLinked(t *testing.T) {
	x := recorded(t, "05 clone template 9000 (Debian 12, systemd, cloud-init, qemu-guest-agent)")
	for name, full := range map[string]bool{"0": false, "1": true} {
		c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.FormValue("full"); got != name {
				t.Errorf("full=%s, want %s", got, name)
			}
			if got := r.FormValue("newid") + r.FormValue("name"); got != "200real-200" {
				t.Errorf("newid and name: %s", got)
			}
			x.write(w)
		})
		id, err := c.Clone(t.Context(), vm(9000), pve.CloneSpec{NewID: 200, Name: "real-200", Full: full})
		if err != nil || id.Node() != "pve" || id.ID() != "9000" {
			t.Errorf("Clone = %s, %v", id, err)
		}
	}
}

func TestTokenSecretIsRedacted(t *testing.T) {
	x := recorded(t, "00 create token agent@pve!sep privsep=1")
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) { x.write(w) })
	got, err := c.CreateToken(t.Context(), "agent@pve", "sep", "")
	if err != nil {
		t.Fatal(err)
	}
	if want := "agent@pve!sep=00000000-1111-2222-3333-444444444444"; got.Reveal() != want {
		t.Errorf("token %s, want %s", got.Reveal(), want)
	}
}

func TestTaskLog(t *testing.T) {
	log := recorded(t, "25 log of clone #3")
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("limit") != "0" {
			t.Errorf("limit=%q cuts a log short", r.FormValue("limit"))
		}
		log.write(w)
	})
	got, err := c.TaskLog(t.Context(), "UPID:pve:1:1:1:qmclone:9001:root@pam:", 2)
	want := []string{" OK", "TASK ERROR: unable to create VM 130: config file already exists"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("log (-want +got), error %v:\n%s", err, diff)
	}

	none := recorded(t, "80 task log unknown UPID")
	c, _ = server(t, func(w http.ResponseWriter, r *http.Request) { none.write(w) })
	if got, err := c.TaskLog(t.Context(), "UPID:pve:1:1:1:qmclone:9001:root@pam:", 2); err != nil || got != nil {
		t.Errorf("a task without a log: %v, %v", got, err)
	}
}

func TestActiveTasksAreNotCutAtFifty(t *testing.T) {
	x := recorded(t, "74 source=active while it runs (status RUNNING, user+token in one string)")
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("source") != "active" || r.FormValue("limit") != "1000" {
			t.Errorf("asked for %s", r.URL.RawQuery)
		}
		x.write(w)
	})
	got, err := c.ActiveTasks(t.Context(), "pve")
	want := []pve.UPID{"UPID:pve:00000DCA:000A86F4:6B0478E1:qmclone:9001:root@pam!mcp:"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("active tasks (-want +got), error %v:\n%s", err, diff)
	}
}

// Tags come in two forms.
func TestTagList(t *testing.T) {
	for _, text := range []string{`["a","b"]`, `"a;b"`, `"a,b"`} {
		var got pve.TagList
		if err := json.Unmarshal([]byte(text), &got); err != nil || !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}
