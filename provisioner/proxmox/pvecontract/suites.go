package pvecontract

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// bigFile is what a big file has: a gigabyte over the agent takes minutes.
const bigFile = 24 << 20

// Machines runs the contract of provisioner.
func (c *Cluster) Machines(t *testing.T) {
	provisionertest.Run(t, func(*testing.T) provisionertest.Backend {
		return provisionertest.Backend{
			Open: func(_ *testing.T, instance string, key provisioner.Key) provisioner.Provisioner {
				return c.Open(instance, key)
			},
			Spec:      provisioner.Spec{Cores: 1, MemoryMB: 512, Network: c.Network},
			SetPapers: c.setPapers,
			Leftovers: func(t *testing.T) []string {
				all, err := c.There(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				return all
			},
		}
	})
}

// setPapers replaces the papers in a machine's description.
func (c *Cluster) setPapers(t *testing.T, ref provisioner.Ref, sealed string) {
	t.Helper()
	vm := c.find(t, ref)
	cfg, err := c.Client.Config(t.Context(), vm)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(cfg["description"], "\n")
	lines[2] = sealed
	if err := c.Client.SetConfig(t.Context(), vm, pve.Change{Set: map[string]string{"description": strings.Join(lines, "\n")}}); err != nil {
		t.Fatal(err)
	}
}

// find returns where a machine is.
func (c *Cluster) find(t *testing.T, ref provisioner.Ref) pve.VM {
	t.Helper()
	id, err := proxmox.VMID(ref)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Client.Resources(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if int(r.VMID) == id {
			return r.VM()
		}
	}
	t.Fatalf("VM %d is not to be seen", id)
	return pve.VM{}
}

// Guests runs the contract of guest, on one machine for all of it: a boot may
// take a minute.
func (c *Cluster) Guests(t *testing.T) {
	p := c.Open("guests", provisionertest.RandomKey(t))
	now := time.Now().Truncate(time.Second)
	m, err := p.Create(t.Context(), provisioner.Spec{
		Papers: provisioner.Papers{
			Instance: "guests", Sandbox: "sb-" + strings.ToLower(rand.Text()), Owner: "local:1000", Profile: "p", Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
		},
		Cores: 1, MemoryMB: 1024, Network: c.Network,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Destroy(context.Background(), m.Ref); err != nil {
			t.Error(err)
		}
		if left, err := c.There(context.Background()); err != nil || len(left) > 0 {
			t.Errorf("left over: %q, %v", left, err)
		}
	})
	root := c.asRoot(t, m.Ref)
	var tests atomic.Int64
	guesttest.Run(t, func(t *testing.T) guesttest.Harness {
		conn, err := p.Dial(t.Context(), m.Ref)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		base := fmt.Sprintf("%s/t%d", m.Home, tests.Add(1))
		h := guesttest.Harness{Conn: conn, Dir: base + "/dir", Full: base + "/full", Break: c.Break, Big: bigFile}
		script := "mkdir -p " + h.Dir + " " + h.Full + " && mount -t tmpfs -o size=64k,mode=777 tmpfs " + h.Full
		if c.User != "" {
			h.Denied = base + "/denied"
			script += " && chown -R " + c.User + ": " + base + " && (umask 077 && echo secret >" + h.Denied + ")"
		}
		prepare(t, root, script)
		return h
	})
}

// asRoot is a channel to a machine for what only root can prepare: its agent's.
func (c *Cluster) asRoot(t *testing.T, ref provisioner.Ref) guest.Conn {
	t.Helper()
	conn := agentconn.New(agentconn.Config{
		Client: c.Client, VM: c.find(t, ref), Limiter: &agentconn.Limiter{},
		Identity: "contract", Check: func(context.Context) error { return nil },
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func prepare(t *testing.T, conn guest.Conn, script string) {
	t.Helper()
	var out bytes.Buffer
	exit, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"/bin/sh", "-c", script}, Dir: "/"}, guest.Streams{Stdout: &out, Stderr: &out})
	if err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v: %s", script, exit, err, out.String())
	}
}
