package pvecontract_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvecontract"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// The contracts hold over SSH as they do over the agent, for root and for a user
// whom cloud-init makes.
func TestOverSSH(t *testing.T) {
	users := []string{"", "user"}
	if os.Getuid() != 0 { // guests have no other user then
		users = users[1:]
	}
	program := filepath.Join(t.TempDir(), "agentlab-guest")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "github.com/agentlab-mcp/agentlab/cmd/agentlab-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build agentlab-guest: %v: %s", err, out)
	}
	for _, user := range users {
		t.Run("as_"+user, func(t *testing.T) {
			c := sshCluster(t)
			c.User, c.Guest = user, program
			c.Prepare(t)
			t.Run("Machines", c.Machines)
			if !raceDetector { // the suite nocgo has them
				t.Run("Guests", c.Guests)
			}
		})
	}
}

// sshCluster is a simulated cluster whose guests have OpenSSH's server.
func sshCluster(t *testing.T) *pvecontract.Cluster {
	t.Helper()
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "c") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // guests pass it
		t.Fatal(err)
	}
	socket := func(ip netip.Addr) string { return filepath.Join(dir, ip.String()) }
	guests := pvetest.ProcessGuests{Dir: dir, ListenSSH: func(spec pvetest.GuestSpec) (net.Listener, error) {
		path := socket(netip.AddrFrom4([4]byte{10, 77, byte(spec.VMID / 250 % 250), byte(1 + spec.VMID%250)}))
		_ = os.Remove(path) // of the last boot
		return net.Listen("unix", path)
	}}
	srv := &pvetest.Server{Version: "9.2.11", NewGuest: guests.New}
	t.Cleanup(srv.Close)
	env := environment(srv)
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddTemplate("pve", 9000, "debian")
		env["AGENTLAB_PVE_TOKEN"] = "root@pam!test=" + c.AddToken("root@pam!test", false)
	})
	env["AGENTLAB_PVE_CHANNEL"], env["AGENTLAB_PVE_NETWORK"] = "ssh", "internet"
	c, err := pvecontract.FromEnv(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	c.Left = func() []string { return left(srv) }
	breakable(c, socket)
	return c
}

// breakable has a cluster's guests dialled at sockets, by connections that can
// be broken.
func breakable(c *pvecontract.Cluster, socket func(netip.Addr) string) {
	var mu sync.Mutex
	var conns []net.Conn
	c.DialSSH = func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "unix", socket(ip))
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			conns = append(conns, nc)
		}
		return nc, err
	}
	c.Break = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, nc := range conns {
			_ = nc.Close()
		}
		conns = nil
	}
}
