package pvesim_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Whatever a test of a user's may leave or spoil is seen.
func TestChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*pvetest.Cluster)
		want  []string // what begins each line
	}{
		"nothing": {func(*pvetest.Cluster) {}, nil},
		"machine-left": {func(c *pvetest.Cluster) { c.AddVM(pvesim.Node, 10500, "left") },
			[]string{"VM 10500 is left", "volume local:10500/vm-10500-cloudinit.qcow2 is left", "volume local:10500/vm-10500-disk-0.qcow2 is left"}},
		"volume-left":     {func(c *pvetest.Cluster) { c.Volumes["local:1/x"] = &pvetest.Volume{} }, []string{"volume local:1/x is left"}},
		"machine-gone":    {func(c *pvetest.Cluster) { delete(c.VMs, 10000) }, []string{"VM 10000 is gone"}},
		"started":         {func(c *pvetest.Cluster) { c.VMs[200].Running = true }, []string{"VM 200 was on pve, running false"}},
		"changed":         {func(c *pvetest.Cluster) { c.VMs[10001].Config["tags"] = "" }, []string{"VM 10001 was "}},
		"out-of-pool":     {func(c *pvetest.Cluster) { delete(c.Pools[pvesim.Pool].VMs, 200) }, []string{"pool agentlab was with [200 10000 10001], is with [10000 10001]"}},
		"template-gone":   {func(c *pvetest.Cluster) { delete(c.VMs, 9000) }, []string{"VM 9000 is gone"}},
		"template-spoilt": {func(c *pvetest.Cluster) { delete(c.VMs[9000].Config, "ide2") }, []string{"VM 9000 was "}},
	} {
		t.Run(name, func(t *testing.T) {
			sim, err := pvesim.New(t.TempDir(), "8.4.21")
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			sim.Server.Edit(tt.spoil)
			got := sim.Changed()
			for i, want := range tt.want {
				if i >= len(got) || !strings.HasPrefix(got[i], want) {
					t.Errorf("changed: %q, want line %d to begin with %q", got, i, want)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("changed: %q, want %d lines", got, len(tt.want))
			}
		})
	}
}

// How it is to be reached is told for each way.
func TestConfigs(t *testing.T) {
	sim, err := pvesim.New(t.TempDir(), "9.2.11")
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	lines, variable, err := sim.ShellConfig(filepath.Join(t.TempDir(), "sock"))
	if err != nil || variable == "" || !strings.HasPrefix(lines, "proxmox_backend: shell\n") || strings.Contains(lines, "token") {
		t.Errorf("by pvesh: %q, %q, %v", lines, variable, err)
	}
	for _, key := range []string{"proxmox_api_url: https://127.0.0.1:", "proxmox_api_token: agentlab@pve!agentlab=", "proxmox_tls_fingerprint: ", "proxmox_pool: agentlab"} {
		if !strings.Contains(sim.Config(), key) {
			t.Errorf("over HTTPS: no %q", key)
		}
	}
}
