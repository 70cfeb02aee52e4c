package proxmox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What owners have in their templates, and what becomes of it.
func TestTemplatesOfOwners(t *testing.T) {
	for name, tt := range map[string]struct{ has, want map[string]string }{
		"boots-as-before-6.2": {map[string]string{"boot": "cdn", "bootdisk": "scsi0"}, map[string]string{"scsi0": "size=3G"}},
		"boots-by-default":    {map[string]string{"boot": "order=net0", "efidisk0": "local:9000/base-9000-disk-9.raw,size=528K"}, map[string]string{"scsi0": "size=3G", "efidisk0": "size=528K"}},
		"fewer-vcpus":         {map[string]string{"cores": "4", "vcpus": "2"}, map[string]string{"cores": "1", "vcpus": ""}},
		"tags-by-comma":       {map[string]string{"tags": "debian,cloud image"}, map[string]string{"tags": "agentlab"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			l.srv.Edit(func(c *pvetest.Cluster) { maps.Copy(c.VMs[9000].Config, tt.has) })
			m, err := l.provisioner().Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			cfg := l.configs()[handleID(t, m)]
			for option, want := range tt.want {
				if got := cfg[option]; !strings.Contains(got, want) || want == "" && got != "" {
					t.Errorf("%s is %q, want %q", option, got, want)
				}
			}
		})
	}
}

// A CD image that is not on shared storage keeps clones on the template's node.
func TestTemplateWithALocalCD(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.Storages[0].Shared = true
		c.Storages = append(c.Storages, &pvetest.Storage{ID: "isos", Content: "iso", Size: 1 << 30})
		c.VMs[9000].Config["ide0"] = "isos:iso/debian.iso,media=cdrom"
		c.Volumes["isos:iso/debian.iso"] = &pvetest.Volume{ID: "isos:iso/debian.iso", Storage: "isos", Node: "pve", Size: 1 << 20}
		grant(c, "/nodes", "Sys.Audit")
		grant(c, "/storage/isos", "Datastore.Audit")
		c.AddNode("pve2").Memory *= 2
	})
	l.onCall(nil)
	m, err := l.provisioner().Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	if on, n := l.nodes(), l.counted()["POST clone"]; on["pve"] != 1 || n != 1 {
		t.Errorf("machine %s is on %v after %d clones", m.Handle, on, n)
	}
}

// A machine that is to have a network gets none from a template without a card.
func TestTemplateWithoutACard(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { delete(c.VMs[9000].Config, "net0") })
	spec := testSpec(1)
	spec.Network = "internet"
	p := l.provisioner()
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "--net0 virtio,bridge=vmbr0") {
		t.Errorf("Create: %v", err)
	}
	p.Bridge = "vmbr0"
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Errorf("Create with a bridge: %v", err)
	}
	if _, err := l.provisioner().Create(t.Context(), testSpec(2)); err != nil {
		t.Errorf("Create without a network: %v", err)
	}
}

// The ID is that of a container, or on another node, where we see nothing.
func TestIDTakenElsewhere(t *testing.T) {
	for name, text := range map[string]string{
		"container":  "CT %d already exists on node 'pve2'",
		"other-node": "close (rename) atomic file '/etc/pve/nodes/pve/qemu-server/%d.conf' failed: File exists",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			spec, id, n := testSpec(1), 0, 0
			spec.Intend = func(_ context.Context, recorded string) error {
				h, err := parseHandle(recorded)
				id = h.id
				return err
			}
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) != "POST clone" || n == 5 {
					return nil
				}
				n++
				return &pvetest.Fault{Status: 500, Reason: fmt.Sprintf(text, id)}
			})
			if _, err := l.provisioner().Create(t.Context(), spec); err != nil || n != 5 {
				t.Errorf("Create after %d IDs: %v", n, err)
			}
		})
	}
}

// Who always finds the config changed gives up.
func TestRelabelGivesUp(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) != "PUT config" {
			return nil
		}
		return &pvetest.Fault{Status: 500, Reason: "checksum mismatch (file change by other user?)"}
	})
	if err := p.Relabel(t.Context(), m.Ref, m.Papers); !errors.Is(err, provisioner.ErrUnavailable) || !errors.Is(err, pve.Modified) {
		t.Errorf("Relabel: %v", err)
	}
}
