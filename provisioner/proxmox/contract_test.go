package proxmox

import (
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestContract(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		t.Run(version, func(t *testing.T) {
			provisionertest.Run(t, func(t *testing.T) provisionertest.Backend {
				guests := pvetest.ProcessGuests{Dir: guestDir(t)} // they really run commands
				l := newLab(t, &pvetest.Server{Version: version, NewGuest: guests.New})
				return provisionertest.Backend{
					Open: func(t *testing.T, instance string, key provisioner.Key) provisioner.Provisioner {
						return l.open(instance, key)
					},
					Spec: provisioner.Spec{Cores: 1, MemoryMB: 256, DiskMB: 3072, Network: "none"},
					SetPapers: func(t *testing.T, ref provisioner.Ref, sealed string) {
						h, err := parseHandle(ref.Handle)
						if err != nil {
							t.Fatal(err)
						}
						l.srv.Edit(func(c *pvetest.Cluster) {
							lines := strings.Split(c.VMs[h.id].Config["description"], "\n")
							lines[2] = sealed
							c.VMs[h.id].Config["description"] = strings.Join(lines, "\n")
						})
					},
					Leftovers: func(*testing.T) []string { return l.leftovers() },
				}
			})
		})
	}
}
