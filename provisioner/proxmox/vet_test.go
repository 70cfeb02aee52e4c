package proxmox

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What keeps machines from being made by a spec is said before there is any, with
// what mends it, and nothing is changed for that.
func TestVet(t *testing.T) {
	bridge := func(c *pvetest.Cluster) { c.VMs[9000].Config["net0"] = "virtio=BC:24:11:00:00:01,bridge=vmbr7" }
	for name, tt := range map[string]struct {
		spoil func(c *pvetest.Cluster, p *Provisioner, spec *provisioner.Spec)
		want  string
	}{
		"fine":          {func(*pvetest.Cluster, *Provisioner, *provisioner.Spec) {}, ""},
		"all-there-is":  {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Cores, s.MemoryMB = 4, 16<<10 }, ""},
		"full":          {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Root = "debian,full=1,storage=local" }, ""},
		"network":       {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Network = "internet" }, ""},
		"no-template":   {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Root = "fedora" }, `no template "fedora" is to be seen`},
		"template-flaw": {func(c *pvetest.Cluster, _ *Provisioner, _ *provisioner.Spec) { c.VMs[9000].Config["agent"] = "0" }, "--agent enabled=1"},
		"no-node":       {func(_ *pvetest.Cluster, p *Provisioner, _ *provisioner.Spec) { p.Nodes = []string{"pve7"} }, "only pve7 may be used"},
		"no-storage":    {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Root = "debian,full=1,storage=fast" }, "storage fast is not to be seen on node pve"},
		"no-disks-there": {func(c *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) {
			c.Storages = append(c.Storages, &pvetest.Storage{ID: "iso", Content: "iso,vztmpl", Size: 1 << 40})
			grant(c, "/storage/iso", "Datastore.Audit")
			s.Root = "debian,full=1,storage=iso"
		}, "pvesh set /storage/iso --content iso,vztmpl,images"},
		"no-bridge":               {func(c *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { bridge(c); s.Network = "internet" }, "bridge vmbr7 is not to be seen on node pve"},
		"bridge-that-is-not-used": {func(c *pvetest.Cluster, _ *Provisioner, _ *provisioner.Spec) { bridge(c) }, ""},
		"bridge-of-ours": {func(c *pvetest.Cluster, p *Provisioner, s *provisioner.Spec) {
			bridge(c)
			p.Bridge, s.Network = "vmbr0", "internet"
		}, ""},
		"no-such-bridge-of-ours": {func(_ *pvetest.Cluster, p *Provisioner, s *provisioner.Spec) {
			p.Bridge, s.Network = "vmbr8", "internet"
		}, "bridge vmbr8"},
		"cores":           {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Cores = 5 }, "5 cores are more than the 4 of node pve"},
		"memory":          {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.MemoryMB = 17 << 10 }, "17408 MB of memory are more than the 16384 of node pve"},
		"unknown-network": {func(_ *pvetest.Cluster, _ *Provisioner, s *provisioner.Spec) { s.Network = "moon" }, `network "moon"`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: -1})
			p, spec := l.provisioner(), testSpec(1)
			spec.Papers = provisioner.Papers{}
			l.srv.Edit(func(c *pvetest.Cluster) {
				c.Nodes[0].CPUs, c.Nodes[0].Memory = 4, 16<<30
				grant(c, "/nodes/pve", "Sys.Audit")
				tt.spoil(c, p, &spec)
			})
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if r.Method != http.MethodGet {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				return nil
			})
			err := p.Vet(t.Context(), spec)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Vet: %v, want %q", err, tt.want)
			case err != nil && !errors.Is(err, provisioner.ErrInvalid) && !errors.Is(err, provisioner.ErrUnavailable):
				t.Errorf("Vet: %v is no error that is promised", err)
			}
		})
	}
}

// One node that can make it is enough, and a Proxmox that does not answer is no
// word about the spec.
func TestVetOfACluster(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.AddNode("big").CPUs = 64
		c.Nodes[0].CPUs = 2
		c.AddTemplate("big", 9001, "debian")
		grant(c, "/nodes", "Sys.Audit")
	})
	p, spec := l.provisioner(), testSpec(1)
	spec.Cores = 32
	if err := p.Vet(t.Context(), spec); err != nil {
		t.Errorf("Vet of what one node has: %v", err)
	}
	spec.Cores = 65
	if err := p.Vet(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "2 of node pve; 65 cores are more than the 64 of node big") {
		t.Errorf("Vet of what no node has: %v", err)
	}
	l.srv.Close()
	if err := p.Vet(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) || !errors.Is(err, pve.Unreachable) {
		t.Errorf("Vet of a server that is down: %v", err)
	}
}
