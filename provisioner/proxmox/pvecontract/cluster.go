// Package pvecontract holds machines of a Proxmox VE to the contracts of
// provisioner and guest, through nothing but its API, so that a real cluster
// and the simulated one are held to the same.
//
// With AGENTLAB_PVE_URL the tests of this package run on a real cluster:
//
//	AGENTLAB_PVE_URL          https://HOST:8006
//	AGENTLAB_PVE_TOKEN        USER@REALM!NAME=SECRET, or AGENTLAB_PVE_TOKEN_FILE
//	AGENTLAB_PVE_FINGERPRINT  of its certificate, or AGENTLAB_PVE_CA, a file
//	AGENTLAB_PVE_TEMPLATE     as in a profile: NAME or VMID[,full=1[,storage=S]]
//	AGENTLAB_PVE_POOL         that exists and is empty; else one is made and removed
//	AGENTLAB_PVE_VMIDS        of which none is in use; else 990000-990099
//	AGENTLAB_PVE_NODE         that alone is used; else all
//	AGENTLAB_PVE_NETWORK      none or internet; else none
//	AGENTLAB_PVE_CHANNEL      agent, ssh or auto; else agent
//	AGENTLAB_PVE_USER         the user of the machines; else root
//
// Machines are made in the pool, with IDs of the range, and destroyed again;
// nothing else is touched.
package pvecontract

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Cluster is where machines are made.
type Cluster struct {
	Client   *pve.Client
	Template string
	Pool     string
	VMIDs    proxmox.Range
	Nodes    []string // empty is all
	Network  string
	Channel  string
	User     string // of the machines; empty is root
	Guest    string // path of agentlab-guest, for SSH
	// DialSSH is the provisioner's.
	DialSSH func(ctx context.Context, ip netip.Addr) (net.Conn, error)
	// Break ends all connections that DialSSH made; nil can't.
	Break func()
	// Left names what a simulator sees left over, beyond what the API shows.
	Left func() []string
}

// FromEnv returns the cluster that the environment names.
func FromEnv(env func(string) string) (*Cluster, error) {
	get := func(name string) string { return env("AGENTLAB_PVE_" + name) }
	token := get("TOKEN")
	if path := get("TOKEN_FILE"); token == "" && path != "" {
		data, err := os.ReadFile(path) //nolint:gosec // the user says so
		if err != nil {
			return nil, fmt.Errorf("AGENTLAB_PVE_TOKEN_FILE: %w", err)
		}
		token = strings.TrimSpace(string(data))
	}
	trust := pve.Trust{Fingerprint: get("FINGERPRINT")}
	if path := get("CA"); path != "" {
		var err error
		if trust.CA, err = os.ReadFile(path); err != nil { //nolint:gosec // the user says so
			return nil, fmt.Errorf("AGENTLAB_PVE_CA: %w", err)
		}
	}
	transport, err := pve.NewHTTPS(get("URL"), pve.Auth{Token: redact.String(token)}, trust)
	if err != nil {
		return nil, fmt.Errorf("AGENTLAB_PVE_URL, _TOKEN, _FINGERPRINT or _CA: %w", err)
	}
	c := &Cluster{
		Client: &pve.Client{Transport: transport}, Template: get("TEMPLATE"), Pool: get("POOL"),
		Network: cmp.Or(get("NETWORK"), "none"), Channel: cmp.Or(get("CHANNEL"), "agent"),
		User: get("USER"),
	}
	if c.Template == "" {
		return nil, errors.New("AGENTLAB_PVE_TEMPLATE is not set: name a template of the cluster")
	}
	vmids := cmp.Or(get("VMIDS"), "990000-990099")
	if _, err := fmt.Sscanf(vmids, "%d-%d", &c.VMIDs.First, &c.VMIDs.Last); err != nil {
		return nil, fmt.Errorf("AGENTLAB_PVE_VMIDS %q: write FIRST-LAST", vmids)
	}
	if node := get("NODE"); node != "" {
		c.Nodes = []string{node}
	}
	return c, nil
}

// Prepare makes a pool unless one is named, and refuses a place where there is
// something already. What it made is removed at the end of the test.
func (c *Cluster) Prepare(t *testing.T) {
	t.Helper()
	if c.Pool == "" {
		c.Pool = "agentlab-test-" + strings.ToLower(rand.Text()[:8])
		if err := c.Client.CreatePool(t.Context(), c.Pool, "made by a test of AgentLab, and empty when it ends"); err != nil {
			t.Fatalf("make a pool: %v", err)
		}
		t.Cleanup(func() {
			// A pool that is not empty is not deleted, so that nothing is hidden.
			if err := c.Client.DeletePool(context.Background(), c.Pool); err != nil {
				t.Errorf("remove pool %s: %v", c.Pool, err)
			}
		})
	}
	if there, err := c.There(t.Context()); err != nil || len(there) > 0 {
		t.Fatalf("pool %s and VMIDs %v must be empty, and hold %q, %v", c.Pool, c.VMIDs, there, err)
	}
}

// Open returns a provisioner as a new process would have it.
func (c *Cluster) Open(instance string, key provisioner.Key) *proxmox.Provisioner {
	return &proxmox.Provisioner{
		Client: c.Client, Key: key, Instance: instance, Pool: c.Pool, VMIDs: c.VMIDs, Nodes: c.Nodes, Template: c.Template,
		Channel: func(string) string { return c.Channel }, User: func(string) string { return c.User }, Guest: c.Guest, DialSSH: c.DialSSH,
	}
}

// There names what is in the pool, in the range, and on storage for the range.
func (c *Cluster) There(ctx context.Context) ([]string, error) {
	var all []string
	pool, err := c.Client.Pool(ctx, c.Pool)
	if err != nil {
		return nil, err
	}
	for _, m := range pool.Members {
		all = append(all, fmt.Sprintf("member %d of pool %s", m.VMID, c.Pool))
	}
	resources, err := c.Client.Resources(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, r := range resources {
		switch {
		case r.Type == "qemu" && c.ours(r.VMID):
			all = append(all, "VM "+r.VM().String())
		case r.Type == "storage" && r.Status == "available":
			volumes, err := c.Client.Volumes(ctx, r.Node, r.Storage, "images", 0)
			if err != nil {
				return nil, fmt.Errorf("list storage %s of node %s: %w", r.Storage, r.Node, err)
			}
			for _, v := range volumes {
				if c.ours(v.VMID) {
					all = append(all, "volume "+v.ID)
				}
			}
		}
	}
	if c.Left != nil {
		all = append(all, c.Left()...)
	}
	return all, nil
}

func (c *Cluster) ours(id pve.Int) bool {
	return pve.Int(c.VMIDs.First) <= id && id <= pve.Int(c.VMIDs.Last)
}
