package agentconn_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

// machine is a guest of the simulator whose agent really runs programs.
type machine struct {
	srv    *pvetest.Server
	client *pve.Client
	vm     pve.VM
	root   string // its root directory on this host
	limit  agentconn.Limiter
}

func boot(t testing.TB, srv *pvetest.Server) *machine {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		check(t, os.Chmod(d, 0o711))
	}
	guests := pvetest.ProcessGuests{Dir: dir}
	m := booted(t, srv, guests.New)
	m.root = filepath.Join(dir, "100", "root")
	return m
}

// booted starts a guest of any kind.
func booted(t testing.TB, srv *pvetest.Server, guests func(pvetest.GuestSpec) (pvetest.Guest, error)) *machine {
	t.Helper()
	srv.NewGuest = guests
	t.Cleanup(srv.Close)
	m := &machine{srv: srv, vm: pve.VM{Node: "pve", ID: 100}}
	var secret string
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddVM("pve", 100, "sandbox").Config["agent"] = "1"
		secret = c.AddToken("root@pam!agentlab", false)
	})
	h, err := pve.NewHTTPS(srv.Listen("pve"), pve.Auth{Token: redact.String("root@pam!agentlab=" + secret)},
		pve.Trust{Fingerprint: srv.Fingerprint("pve")})
	check(t, err)
	m.client = &pve.Client{Transport: h}
	m.await(t)(m.client.Start(t.Context(), m.vm))
	return m
}

// await waits for a task that was just started.
func (m *machine) await(t testing.TB) func(pve.UPID, error) {
	return func(task pve.UPID, err error) {
		t.Helper()
		check(t, err)
		_, err = m.client.Wait(t.Context(), task)
		check(t, err)
	}
}

func (m *machine) conn(t testing.TB, user string) *agentconn.Conn {
	t.Helper()
	c := agentconn.New(agentconn.Config{
		Client: m.client, VM: m.vm, Limiter: &m.limit, User: user,
		Identity: "test", Check: func(context.Context) error { return nil }, Checked: time.Now().Add(time.Hour), // it never gets old
	})
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	t.Parallel() // it mostly waits
	versions, big := []string{"8.4.21", "9.2.11"}, int64(64<<20)
	if raceDetector { // which makes minutes of a minute: the other version has its turn in the suite nocgo
		versions, big = versions[1:], 24<<20
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			guesttest.Run(t, func(t *testing.T) guesttest.Harness {
				m := boot(t, &pvetest.Server{Version: version})
				root := m.conn(t, "")
				m.sh(t, root, "mkdir /home/t")
				h := guesttest.Harness{Dir: "/home/t", Conn: root, Big: big}
				if os.Getuid() == 0 { // the guest knows more users than one
					m.sh(t, root, "chown nobody /home/t; echo secret >/home/denied; chmod 600 /home/denied; "+
						"mkdir /home/full && mount -t tmpfs -o size=64k,mode=777 tmpfs /home/full")
					h.Conn, h.Denied, h.Full = m.conn(t, "nobody"), "/home/denied", "/home/full"
				}
				return h
			})
		})
	}
}

// sh runs a script and returns what it wrote.
func (m *machine) sh(t testing.TB, c *agentconn.Conn, script string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	exit, err := c.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", script}}, guest.Streams{Stdout: &out, Stderr: &errOut})
	check(t, err)
	if exit.Code != 0 {
		t.Fatalf("%q: exit %+v, stderr %q", script, exit, errOut.String())
	}
	return out.String()
}

// Processes that start at the same time get numbers of their own, and are listed.
func TestStartsAtOnce(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	for range 15 {
		var starts sync.WaitGroup
		for range 8 {
			starts.Go(func() {
				p, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sleep", "0.2"}}, guest.StartOptions{Wait: time.Minute})
				if err != nil || !regexp.MustCompile(`^p_[0-9]+$`).MatchString(p.ID) {
					t.Errorf("process %q, %v", p.ID, err)
				}
			})
		}
		starts.Wait()
		if _, err := c.Processes().List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
