package proxmox

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What is wrong with a template or the setting is said with what mends it.
func TestCheckSaysWhatMends(t *testing.T) {
	config := func(edit func(map[string]string)) func(*pvetest.Cluster, *Provisioner) {
		return func(c *pvetest.Cluster, _ *Provisioner) { edit(c.VMs[9000].Config) }
	}
	for name, tt := range map[string]struct {
		spoil func(c *pvetest.Cluster, p *Provisioner)
		want  string
	}{
		"fine":            {func(*pvetest.Cluster, *Provisioner) {}, ""},
		"cloudinit-scsi":  {config(func(c map[string]string) { c["scsi1"] = c["ide2"]; delete(c, "ide2") }), ""},
		"cloudinit-sata":  {config(func(c map[string]string) { c["sata0"] = c["ide2"]; delete(c, "ide2") }), ""},
		"agent-options":   {config(func(c map[string]string) { c["agent"] = "1,fstrim_cloned_disks=1" }), ""},
		"agent-type":      {config(func(c map[string]string) { c["agent"] = "type=isa,enabled=1" }), ""},
		"agent-off":       {config(func(c map[string]string) { c["agent"] = "enabled=0,type=virtio" }), "--agent enabled=1"},
		"no-serial":       {config(func(c map[string]string) { delete(c, "serial0"); delete(c, "vga") }), ""},
		"state-only":      {config(func(c map[string]string) { c["efidisk0"] = c["scsi0"]; delete(c, "scsi0") }), "has no disk"},
		"no-template":     {func(_ *pvetest.Cluster, p *Provisioner) { p.Template = "fedora" }, "VM.Audit and VM.Clone"},
		"none-named":      {func(_ *pvetest.Cluster, p *Provisioner) { p.Template = "" }, ""},
		"not-converted":   {func(c *pvetest.Cluster, p *Provisioner) { p.Template = "9000"; delete(c.VMs[9000].Config, "template") }, "run on a node: pvesh create /nodes/pve/qemu/9000/template"},
		"no-agent":        {config(func(c map[string]string) { c["agent"] = "0" }), "--agent enabled=1"},
		"no-cloudinit":    {config(func(c map[string]string) { delete(c, "ide2") }), "--ide2 local:cloudinit"},
		"no-disk":         {config(func(c map[string]string) { delete(c, "scsi0") }), "docs/proxmox.md"},
		"no-pool":         {func(_ *pvetest.Cluster, p *Provisioner) { p.Pool = "nosuch" }, "agentlab proxmox setup"},
		"no-range":        {func(_ *pvetest.Cluster, p *Provisioner) { p.VMIDs = Range{} }, "set a range from 100 on"},
		"wrong-root":      {func(_ *pvetest.Cluster, p *Provisioner) { p.Template = "debian,fill=1" }, `"fill" is not understood`},
		"no-node":         {func(_ *pvetest.Cluster, p *Provisioner) { p.Nodes = []string{"pve7"} }, "can be cloned on pve, and only pve7 may be used"},
		"storage-of-link": {func(_ *pvetest.Cluster, p *Provisioner) { p.Template = "debian,storage=local" }, "add full=1"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: -1})
			p := l.provisioner()
			l.srv.Edit(func(c *pvetest.Cluster) { tt.spoil(c, p) })
			err := p.Check(t.Context())
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check: %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("old-version", func(t *testing.T) {
		if err := newLab(t, &pvetest.Server{Version: "8.1.4"}).provisioner().Check(t.Context()); err == nil || !strings.Contains(err.Error(), "upgrade to 8.2") {
			t.Errorf("Check: %v", err)
		}
	})
}

// Without a default, whoever asks for a machine must name a template.
func TestNoDefaultTemplate(t *testing.T) {
	p := newLab(t, &pvetest.Server{}).provisioner()
	p.Template = ""
	spec := testSpec(1)
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provisioner.ErrInvalid) || !strings.Contains(err.Error(), "no template is set") {
		t.Errorf("Create: %v", err)
	}
	spec.Root = "debian"
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Errorf("Create of a spec that names one: %v", err)
	}
}

// Profiles differ in whom we are on their machines.
func TestUserOfAProfile(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	spec := testSpec(1)
	p.User = func(profile string) string { return map[string]string{spec.Papers.Profile: "debian"}[profile] }
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.configs()[handleID(t, m)]["ciuser"]; got != "debian" || m.Home != "/home/debian" {
		t.Errorf("user %q with home %q, want debian with /home/debian", got, m.Home)
	}
	other := testSpec(2)
	other.Papers.Profile = "other"
	if m, err = p.Create(t.Context(), other); err != nil || m.Home != "/root" {
		t.Errorf("Create of another profile: home %q, %v, want /root", m.Home, err)
	}
}

// A storage that makes no linked clones will do for full ones.
func TestUnlinkableStorage(t *testing.T) {
	tpl := knownTemplate{vm: pve.VM{Node: "pve", ID: 9000}, cfg: pve.Config{"template": "1", "agent": "1"}, disks: []disk{
		{option: "ide2", cloudinit: true}, {option: "scsi0", storage: pve.Resource{Storage: "san", PluginType: "lvm"}},
	}}
	if err := tpl.usable(root{}); err == nil || !strings.Contains(err.Error(), "clone: full") {
		t.Errorf("linked: %v", err)
	}
	if err := tpl.usable(root{full: true}); err != nil {
		t.Errorf("full: %v", err)
	}
	// The state of a TPM is always copied (PVE/API2/Qemu.pm clone_vm), that of EFI is not.
	tpl.disks[1].storage.PluginType = "zfspool"
	for option, links := range map[string]bool{"tpmstate0": true, "efidisk0": false} {
		with := tpl
		with.disks = append(slices.Clone(tpl.disks), disk{option: option, storage: pve.Resource{Storage: "san", PluginType: "lvm"}})
		if err := with.usable(root{}); (err == nil) != links {
			t.Errorf("linked, with %s on lvm: %v", option, err)
		}
	}
}

// What a machine's config is in the end, by network and by what the template had.
func TestConfig(t *testing.T) {
	for _, network := range []string{"none", "internet"} {
		t.Run(network, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			l.srv.Edit(func(c *pvetest.Cluster) {
				maps.Copy(c.VMs[9000].Config, map[string]string{
					"protection": "1", "onboot": "1", "balloon": "300", "tags": "debian", "net1": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "ipconfig1": "ip=dhcp",
				})
			})
			p := l.provisioner()
			p.Bridge = "vmbr0"
			spec := testSpec(1)
			spec.Network, spec.Hostname = network, "not a host name"
			m, err := p.Create(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			cfg := l.configs()[handleID(t, m)]
			key, err := p.clientKey(m.Sandbox, 0)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, k := range []string{"name", "onboot", "protection", "balloon", "memory", "cores", "ciuser", "ciupgrade", "ipconfig0", "ipconfig1", "net1", "running"} {
				got[k] = cfg[k]
			}
			want := map[string]string{
				"name": m.Sandbox, "onboot": "0", "protection": "", "balloon": "256", "memory": "256", "cores": "1", "ciuser": "root", "ciupgrade": "0",
				"ipconfig0": "", "ipconfig1": "", "net1": "", "running": "true",
			}
			if network == "internet" {
				want["ipconfig0"] = "ip=dhcp"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			if (cfg["net0"] != "") != (network == "internet") {
				t.Errorf("net0 is %q", cfg["net0"])
			}
			if !strings.Contains(cfg["tags"], "debian") || !strings.Contains(cfg["tags"], tag) {
				t.Errorf("tags %q", cfg["tags"])
			}
			if !strings.HasPrefix(cfg["sshkeys"], "ssh-ed25519%20") || strings.Contains(cfg["sshkeys"], string(key.PublicKey().Marshal())) {
				t.Errorf("sshkeys %q", cfg["sshkeys"])
			}
			if disk, mb := bootDisk(cfg); disk != "scsi0" || mb != int64(spec.DiskMB) {
				t.Errorf("boot disk %s has %d MB", disk, mb)
			}
		})
	}
}

// A full clone, where the profile asks for one.
func TestFullClone(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	spec := testSpec(1)
	spec.Root = "9000,full=1,storage=local"
	m, err := l.provisioner().Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if disk := l.configs()[handleID(t, m)]["scsi0"]; strings.Contains(disk, "base-") {
		t.Errorf("scsi0 is linked: %s", disk)
	}
}
