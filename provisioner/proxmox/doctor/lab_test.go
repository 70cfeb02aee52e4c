package doctor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/doctor"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

var versions = []string{"8.4.21", "9.2.11"}

const tokenID = "agentlab@pve!agentlab"

// lab is a Proxmox VE with all that AgentLab needs.
type lab struct {
	*pvetest.Server
	secret string
	env    []string // of a shell on the node
}

func newLab(t *testing.T, srv *pvetest.Server) *lab {
	t.Helper()
	t.Cleanup(srv.Close)
	srv.Staleness = -1
	srv.Edit(func(c *pvetest.Cluster) { c.AddTemplate("pve", 9000, "debian") })
	trust := pve.Trust{Fingerprint: srv.Fingerprint("pve")}
	auth, err := pve.Login(t.Context(), srv.Listen("pve"), trust, "root@pam", "pvetest123")
	if err != nil {
		t.Fatal(err)
	}
	h, err := pve.NewHTTPS(srv.Listen("pve"), auth, trust)
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "token")
	s := setup.Setup{Client: &pve.Client{Transport: h}, Secret: secret, Want: setup.Want{
		Pool: "agentlab", Templates: []string{"debian"}, User: "agentlab@pve", Token: "agentlab",
	}}
	if _, err := s.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	env, err := srv.Shell("pve", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{srv, strings.TrimSpace(string(data)), env}
}

// settings are what is configured.
type settings struct {
	url, secret  string
	trust        pve.Trust
	pool, bridge string
	vmids        proxmox.Range
	nodes, roots []string
	create       bool
}

func (l *lab) settings() *settings {
	return &settings{
		url: l.Listen("pve"), secret: l.secret, trust: pve.Trust{Fingerprint: l.Fingerprint("pve")},
		pool: "agentlab", vmids: proxmox.Range{First: 5000, Last: 5099}, roots: []string{"debian"},
	}
}

func (s *settings) doctor(t *testing.T) *doctor.Proxmox {
	t.Helper()
	h, err := pve.NewHTTPS(s.url, pve.Auth{Token: redact.String(s.secret)}, s.trust)
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(s.secret, "=")
	return &doctor.Proxmox{
		Backend: &proxmox.Provisioner{
			Client: &pve.Client{Transport: h}, Key: provisionertest.Key(t, 1), Instance: "inst-1", Pool: s.pool,
			VMIDs: s.vmids, Bridge: s.bridge, Nodes: s.nodes,
		},
		Roots: s.roots, URL: s.url, Trust: s.trust, Token: id, Create: s.create,
	}
}

func (s *settings) check(t *testing.T) []doctor.Result {
	t.Helper()
	return s.doctor(t).Check(t.Context())
}

// unlike returns the results that are not ok.
func unlike(results []doctor.Result) (bad []string) {
	for _, r := range results {
		if r.Status != doctor.OK {
			bad = append(bad, fmt.Sprintf("%s %s: %s (%q; %s)", r.Status, r.Check, r.Detail, r.Run, r.Do))
		}
	}
	return bad
}

func find(t *testing.T, results []doctor.Result, check string) doctor.Result {
	t.Helper()
	i := slices.IndexFunc(results, func(r doctor.Result) bool { return r.Check == check })
	if i < 0 {
		t.Fatalf("there is no check %q in %+v", check, results)
	}
	return results[i]
}

// shell runs commands as root on the node.
func (l *lab) shell(t *testing.T, commands []string) {
	t.Helper()
	for _, c := range commands {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", c)
		cmd.Env = l.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c, err, out)
		}
	}
}
