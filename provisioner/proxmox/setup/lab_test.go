package setup_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

var versions = []string{"8.4.21", "9.2.11"}

// lab is a Proxmox VE with a template, and nothing made for AgentLab.
type lab struct {
	*pvetest.Server
	root *pve.Client // root@pam by ticket
}

func newLab(t *testing.T, srv *pvetest.Server) *lab {
	t.Helper()
	t.Cleanup(srv.Close)
	srv.Edit(func(c *pvetest.Cluster) { c.AddTemplate("pve", 9000, "debian") })
	auth, err := pve.Login(t.Context(), srv.Listen("pve"), pve.Trust{Fingerprint: srv.Fingerprint("pve")}, "root@pam", "pvetest123")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Server: srv}
	l.root = l.client(t, auth)
	return l
}

func (l *lab) client(t *testing.T, auth pve.Auth) *pve.Client {
	t.Helper()
	h, err := pve.NewHTTPS(l.Listen("pve"), auth, pve.Trust{Fingerprint: l.Fingerprint("pve")})
	if err != nil {
		t.Fatal(err)
	}
	return &pve.Client{Transport: h}
}

func want() setup.Want {
	return setup.Want{Pool: "agentlab", Templates: []string{"debian"}, User: "agentlab@pve", Token: "agentlab"}
}

// apply sets up what is wanted, and returns the changes.
func (l *lab) apply(t *testing.T, w setup.Want, secret string) ([]string, error) {
	t.Helper()
	var changes []string
	s := setup.Setup{Client: l.root, Want: w, Secret: secret, Report: func(c string) { changes = append(changes, c) }}
	changed, err := s.Apply(t.Context())
	if changed != (len(changes) > 0) {
		t.Errorf("changed is %v after %q", changed, changes)
	}
	return changes, err
}

// access is all that setup may change, to compare.
func (l *lab) access() []string {
	var all []string
	l.Edit(func(c *pvetest.Cluster) {
		for id := range c.Pools {
			all = append(all, "pool "+id)
		}
		for id, r := range c.Roles {
			if !r.Special {
				all = append(all, fmt.Sprint("role ", id, " ", slices.Sorted(slices.Values(r.Privs))))
			}
		}
		for id, u := range c.Users {
			all = append(all, fmt.Sprint("user ", id, " ", u.Password != ""))
		}
		for id, tok := range c.Tokens {
			all = append(all, fmt.Sprint("token ", id, " ", tok.PrivSep))
		}
		for _, a := range c.ACL {
			all = append(all, fmt.Sprint("grant ", a))
		}
	})
	slices.Sort(all)
	return all
}

// live makes a machine with a token, uses it and destroys it.
func (l *lab) live(t *testing.T, token redact.String) error {
	t.Helper()
	p := &proxmox.Provisioner{
		Client: l.client(t, pve.Auth{Token: token}), Key: provisionertest.Key(t, 1), Instance: "inst-1", Pool: "agentlab",
		VMIDs: proxmox.Range{First: 5000, Last: 5999}, Template: "debian", Bridge: "vmbr0",
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Check(ctx); err != nil {
		return err
	}
	now := time.Now().Truncate(time.Second).UTC()
	m, err := p.Create(ctx, provisioner.Spec{
		Papers:   provisioner.Papers{Instance: "inst-1", Sandbox: strings.ToLower(rand.Text()), Owner: "o", Profile: "p", Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour)},
		Hostname: "box", Cores: 1, MemoryMB: 256, DiskMB: 3072, Network: "internet",
	})
	if err != nil {
		return err
	}
	conn, err := p.Dial(ctx, m.Ref)
	if err == nil {
		_, err = conn.Run(ctx, guest.Cmd{Args: []string{"true"}}, guest.Streams{})
		_ = conn.Close()
	}
	if derr := p.Destroy(ctx, m.Ref); err == nil {
		err = derr
	}
	return err
}

// shell runs a script as root on the node.
func (l *lab) shell(t *testing.T, script string) string {
	t.Helper()
	env, err := l.Shell("pve", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = env
	out, _ := cmd.CombinedOutput()
	return strings.TrimSpace(string(out))
}
