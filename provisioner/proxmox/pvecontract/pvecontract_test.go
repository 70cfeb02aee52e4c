package pvecontract_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvecontract"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

// TestRealCluster is for whoever has a Proxmox VE: see the package's comment.
func TestRealCluster(t *testing.T) {
	if os.Getenv("AGENTLAB_PVE_URL") == "" {
		t.Skip("AGENTLAB_PVE_URL is not set: there is no real cluster to test on")
	}
	c, err := pvecontract.FromEnv(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	c.Prepare(t)
	t.Run("Machines", c.Machines)
	t.Run("Guests", c.Guests)
}

// With a token that has the least rights, in a pool that is there.
func TestOverHTTPS(t *testing.T) {
	for _, version := range []string{"8.2.4", "8.4.21", "9.2.11"} {
		t.Run(version, func(t *testing.T) {
			srv := simulate(t, version)
			env := environment(srv)
			env["AGENTLAB_PVE_TOKEN_FILE"] = filepath.Join(t.TempDir(), "token")
			env["AGENTLAB_PVE_POOL"] = "agentlab"
			s := setup.Setup{Client: byTicket(t, srv), Secret: env["AGENTLAB_PVE_TOKEN_FILE"], Want: setup.Want{
				Pool: "agentlab", Templates: []string{"debian"}, User: "agentlab@pve", Token: "agentlab",
			}}
			if _, err := s.Apply(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := pvecontract.FromEnv(func(name string) string { return env[name] })
			if err != nil {
				t.Fatal(err)
			}
			c.Left = func() []string { return left(srv) }
			c.Prepare(t)
			t.Run("Machines", c.Machines)
		})
	}
}

// A pool that was made for the tests is removed after them.
func TestOwnPool(t *testing.T) {
	srv := simulate(t, "9.2.11")
	env := environment(srv)
	srv.Edit(func(c *pvetest.Cluster) {
		env["AGENTLAB_PVE_TOKEN"] = "root@pam!test=" + c.AddToken("root@pam!test", false)
	})
	t.Run("run", func(t *testing.T) {
		c, err := pvecontract.FromEnv(func(name string) string { return env[name] })
		if err != nil {
			t.Fatal(err)
		}
		c.Left = func() []string { return left(srv) }
		c.Prepare(t)
		srv.Edit(func(cluster *pvetest.Cluster) {
			if cluster.Pools[c.Pool] == nil {
				t.Errorf("there is no pool %q", c.Pool)
			}
		})
	})
	srv.Edit(func(c *pvetest.Cluster) {
		if len(c.Pools) != 0 {
			t.Errorf("pools are left: %v", c.Pools)
		}
	})
}

// A place that is in use is left alone.
func TestRefusesWhatIsThere(t *testing.T) {
	srv := simulate(t, "")
	c := &pvecontract.Cluster{Client: byTicket(t, srv), Template: "debian", Pool: "agentlab", VMIDs: proxmox.Range{First: 5000, Last: 5099}}
	if err := c.Client.CreatePool(t.Context(), "agentlab", ""); err != nil {
		t.Fatal(err)
	}
	if there, err := c.There(t.Context()); err != nil || len(there) > 0 {
		t.Errorf("there is %q, %v", there, err)
	}
	srv.Edit(func(cluster *pvetest.Cluster) {
		cluster.AddVM("pve", 5001, "in-the-range")
		cluster.AddVM("pve", 200, "in-the-pool")
		cluster.Pools["agentlab"].VMs[200] = true
	})
	there, err := c.There(t.Context())
	if text := strings.Join(there, ", "); err != nil || !strings.Contains(text, "member 200") || !strings.Contains(text, "VM 5001") {
		t.Errorf("there is %q, %v", there, err)
	}
}

func TestOverPvesh(t *testing.T) {
	if raceDetector {
		t.Skip("each of hundreds of calls starts this program, which takes a second under the race detector; .ci/run has it in the suite nocgo")
	}
	srv := simulate(t, "8.4.21")
	env, err := srv.Shell("pve", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	c := &pvecontract.Cluster{
		Client: &pve.Client{Transport: pve.NewPvesh(pve.Local{})}, Template: "debian", VMIDs: proxmox.Range{First: 5000, Last: 5099},
		Network: "none", Channel: "agent", Left: func() []string { return left(srv) },
	}
	c.Prepare(t)
	t.Run("Machines", c.Machines)
	t.Run("Guests", c.Guests)
}

// What is wrong in the environment is named.
func TestFromEnv(t *testing.T) {
	good := environment(simulate(t, ""))
	good["AGENTLAB_PVE_TOKEN"] = "root@pam!test=00000000-0000-0000-0000-000000000000"
	for name, bad := range map[string]string{
		"AGENTLAB_PVE_TEMPLATE": "", "AGENTLAB_PVE_VMIDS": "5000", "AGENTLAB_PVE_CA": "/nonexistent", "AGENTLAB_PVE_URL": "pve:8006",
		"AGENTLAB_PVE_FINGERPRINT": "AB:CD",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pvecontract.FromEnv(func(n string) string {
				if n == name {
					return bad
				}
				return good[n]
			})
			if word := strings.TrimPrefix(name, "AGENTLAB_PVE"); err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("error %v names no %s", err, name)
			}
		})
	}
}

// simulate returns a cluster with the template debian, whose guests run commands.
func simulate(t *testing.T, version string) *pvetest.Server {
	t.Helper()
	guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
	srv := &pvetest.Server{Version: version, NewGuest: guests.New}
	t.Cleanup(srv.Close)
	srv.Edit(func(c *pvetest.Cluster) { c.AddTemplate("pve", 9000, "debian") })
	return srv
}

func environment(srv *pvetest.Server) map[string]string {
	return map[string]string{
		"AGENTLAB_PVE_URL": srv.Listen("pve"), "AGENTLAB_PVE_FINGERPRINT": srv.Fingerprint("pve"),
		"AGENTLAB_PVE_TEMPLATE": "debian", "AGENTLAB_PVE_VMIDS": "5000-5099",
	}
}

func byTicket(t *testing.T, srv *pvetest.Server) *pve.Client {
	t.Helper()
	trust := pve.Trust{Fingerprint: srv.Fingerprint("pve")}
	auth, err := pve.Login(t.Context(), srv.Listen("pve"), trust, "root@pam", "pvetest123")
	if err != nil {
		t.Fatal(err)
	}
	h, err := pve.NewHTTPS(srv.Listen("pve"), auth, trust)
	if err != nil {
		t.Fatal(err)
	}
	return &pve.Client{Transport: h}
}

// left names the disks that are there besides the template's, which a token may
// not see.
func left(srv *pvetest.Server) (all []string) {
	srv.Edit(func(c *pvetest.Cluster) {
		for id, v := range c.Volumes {
			if v.VMID != 9000 {
				all = append(all, fmt.Sprintf("volume %s of VM %d", id, v.VMID))
			}
		}
	})
	slices.Sort(all)
	return all
}
