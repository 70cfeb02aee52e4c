package doctor_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/doctor"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What setup made passes every check, also the making of a machine.
func TestHealthy(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
			l := newLab(t, &pvetest.Server{Version: version, NewGuest: guests.New})
			s := l.settings()
			s.create = true
			results := s.check(t)
			if bad := unlike(results); bad != nil {
				t.Errorf("results %q", bad)
			}
			var checks []string
			for _, r := range results {
				checks = append(checks, r.Check)
			}
			want := []string{
				"api", "tls", "version", "token", "nodes", "template debian", "pool", "privileges", "surplus", "tags", "storage local", "bridge vmbr0",
				"vmids", "agent", "create debian",
			}
			if diff := cmp.Diff(want, checks); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
			l.noMachines(t)
		})
	}
}

// noMachines makes sure that nothing was left.
func (l *lab) noMachines(t *testing.T) {
	t.Helper()
	l.Edit(func(c *pvetest.Cluster) {
		for id := range c.VMs {
			if id < 9000 {
				t.Errorf("machine %d was left", id)
			}
		}
		for id, v := range c.Volumes {
			if v.VMID < 9000 {
				t.Errorf("volume %s was left", id)
			}
		}
	})
}

// trouble is something wrong, and what mends it.
type trouble struct {
	spoil  func(c *pvetest.Cluster, s *settings)
	check  string
	status doctor.Status
	detail string
	do     string                                // the advice
	mend   func(c *pvetest.Cluster, s *settings) // what it advises; nil is to run the commands
}

func setConfig(option, value string) func(*pvetest.Cluster, *settings) {
	return func(c *pvetest.Cluster, _ *settings) {
		if c.VMs[9000].Config[option] = value; value == "" {
			delete(c.VMs[9000].Config, option)
		}
	}
}

// lose takes a privilege from a role of ours.
func lose(role, priv string) func(*pvetest.Cluster, *settings) {
	return func(c *pvetest.Cluster, _ *settings) {
		r := c.Roles[role]
		r.Privs = slices.DeleteFunc(slices.Clone(r.Privs), func(p string) bool { return p == priv })
	}
}

// revoke removes the grants on a path, of the user or of the token.
func revoke(path, who string) func(*pvetest.Cluster, *settings) {
	return func(c *pvetest.Cluster, _ *settings) {
		c.ACL = slices.DeleteFunc(c.ACL, func(a pvetest.ACL) bool { return a.Path == path && (who == "" || a.Who == who) })
	}
}

func grant(path, role string) func(*pvetest.Cluster, *settings) {
	return func(c *pvetest.Cluster, _ *settings) {
		for _, who := range []string{"agentlab@pve", tokenID} {
			c.ACL = append(c.ACL, pvetest.ACL{Path: path, Role: role, Who: who, Propagate: true})
		}
	}
}

// tagRules sets an option of the datacenter, and lets the token see those.
func tagRules(option, value string) func(*pvetest.Cluster, *settings) {
	return func(c *pvetest.Cluster, s *settings) {
		c.Options[option] = value
		grant("/", "PVEAuditor")(c, s)
	}
}

// Each check fails when something is wrong, and what it says mends that.
func TestTroubles(t *testing.T) {
	others := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(others.Close)
	all := map[string]trouble{
		"unreachable": {
			func(_ *pvetest.Cluster, s *settings) { s.url = "https://127.0.0.1:1" },
			"api", doctor.Failed, "refused", "correct proxmox_api_url", func(*pvetest.Cluster, *settings) {},
		},
		"not-proxmox": {
			func(_ *pvetest.Cluster, s *settings) { s.url, s.trust = others.URL, pve.Trust{Insecure: true} },
			"api", doctor.Failed, "is not from a Proxmox VE API", "correct proxmox_api_url", func(*pvetest.Cluster, *settings) {},
		},
		"other-certificate": {
			func(_ *pvetest.Cluster, s *settings) {
				s.trust = pve.Trust{Fingerprint: strings.Repeat("AB:", 31) + "AB"}
			},
			"tls", doctor.Failed, "has the fingerprint", "set proxmox_tls_fingerprint: ", nil,
		},
		"unknown-certificate": {
			func(_ *pvetest.Cluster, s *settings) { s.trust = pve.Trust{} },
			"tls", doctor.Failed, "certificate", "set proxmox_tls_fingerprint: ", nil,
		},
		"any-certificate": {
			func(_ *pvetest.Cluster, s *settings) { s.trust = pve.Trust{Insecure: true} },
			"tls", doctor.Warning, "can take the token", "set proxmox_tls_fingerprint: ", nil,
		},
		"wrong-secret": {
			func(_ *pvetest.Cluster, s *settings) { s.secret = tokenID + "=nonsense" },
			"token", doctor.Failed, "is not accepted", "agentlab proxmox setup --apply", func(*pvetest.Cluster, *settings) {},
		},
		"all-rights-of-the-user": {
			func(c *pvetest.Cluster, _ *settings) { c.Tokens[tokenID].PrivSep = false },
			"token", doctor.Warning, "no privilege separation", "", nil,
		},
		"token-ends": {
			func(c *pvetest.Cluster, _ *settings) { c.Tokens[tokenID].Expire = time.Now().Add(time.Hour).Unix() },
			"token", doctor.Warning, "expires in 1h", "", nil,
		},
		"no-such-node": {
			func(_ *pvetest.Cluster, s *settings) { s.nodes = []string{"pve7"} },
			"nodes", doctor.Failed, "proxmox_node pve7 is not among them", "set proxmox_node", func(_ *pvetest.Cluster, s *settings) { s.nodes = nil },
		},
		"memory-hidden": {
			func(c *pvetest.Cluster, _ *settings) { c.AddNode("pve2") },
			"nodes", doctor.Warning, "free memory can't be seen", "", nil,
		},
		"node-down": {
			func(c *pvetest.Cluster, s *settings) {
				c.AddNode("pve2").Down = true
				grant("/nodes", "PVEAuditor")(c, s)
			},
			"nodes", doctor.Warning, "not online: pve2", "start what ought", func(c *pvetest.Cluster, _ *settings) { c.Nodes[1].Down = false },
		},
		"no-template-named": {
			func(_ *pvetest.Cluster, s *settings) { s.roots = nil },
			"template", doctor.Failed, "names one", "set proxmox_template", nil,
		},
		"unknown-template": {
			func(_ *pvetest.Cluster, s *settings) { s.roots = []string{"fedora"} },
			"template fedora", doctor.Failed, "none that the token sees", "agentlab proxmox setup --apply --template fedora", nil,
		},
		"template-not-seen": {
			func(c *pvetest.Cluster, s *settings) { s.roots = []string{"9000"}; revoke("/vms/9000", "")(c, s) },
			"template 9000", doctor.Failed, "none that the token sees", "", nil,
		},
		"not-converted": {
			func(c *pvetest.Cluster, s *settings) { s.roots = []string{"9000"}; unconvert(c) },
			"template 9000", doctor.Failed, "ordinary machine", "", nil,
		},
		"agent-off-in-template": {setConfig("agent", "0"), "template debian", doctor.Failed, "agent switched off", "", nil},
		"agent-off":             {setConfig("agent", "0"), "agent", doctor.Failed, "switched off in 9000 on pve", "", nil},
		"no-cloudinit":          {setConfig("ide2", ""), "template debian", doctor.Failed, "no cloud-init drive", "", nil},
		"no-disk":               {setConfig("scsi0", ""), "template debian", doctor.Failed, "has no disk", "docs/proxmox.md", func(c *pvetest.Cluster, _ *settings) { c.AddTemplate("pve", 9000, "debian") }},
		"not-on-that-node": {
			func(c *pvetest.Cluster, s *settings) { c.AddNode("pve2"); s.nodes = []string{"pve2"} },
			"template debian", doctor.Failed, "can't be cloned to pve2", "set proxmox_node to pve", func(_ *pvetest.Cluster, s *settings) { s.nodes = nil },
		},
		"template-node-down": {
			func(c *pvetest.Cluster, _ *settings) { c.AddNode("pve2").Down = true; c.VMs[9000].Node = "pve2" },
			"template debian", doctor.Failed, "not online", "start the node", func(c *pvetest.Cluster, _ *settings) { c.Nodes[1].Down = false },
		},
		"no-pool": {
			func(c *pvetest.Cluster, s *settings) { s.pool = "other"; grant("/pool/other", "AgentLabPool")(c, s) },
			"pool", doctor.Failed, "does not exist", "", nil,
		},
		"pool-not-seen": {
			revoke("/pool/agentlab", ""), "pool", doctor.Failed, "may not see pool agentlab", "pvesh create /pools --poolid agentlab",
			func(c *pvetest.Cluster, s *settings) { grant("/pool/agentlab", "AgentLabPool")(c, s) },
		},
		"only-the-user":    {revoke("/pool/agentlab", tokenID), "privileges", doctor.Failed, "VM.Allocate", "", nil},
		"only-the-token":   {revoke("/pool/agentlab", "agentlab@pve"), "privileges", doctor.Failed, "VM.Allocate", "", nil},
		"no-power":         {lose("AgentLabPool", "VM.PowerMgmt"), "privileges", doctor.Failed, "the token lacks VM.PowerMgmt on /pool/agentlab", "", nil},
		"no-clone":         {lose("AgentLabTemplate", "VM.Clone"), "privileges", doctor.Failed, "the token lacks VM.Clone on /vms/9000", "", nil},
		"no-role":          {func(c *pvetest.Cluster, _ *settings) { delete(c.Roles, "AgentLabStorage") }, "privileges", doctor.Failed, "on /storage/local", "", nil},
		"admin-everywhere": {grant("/", "PVEAdmin"), "surplus", doctor.Warning, "VM.Console", "", nil},
		"widened-role": {func(c *pvetest.Cluster, _ *settings) {
			r := c.Roles["AgentLabPool"]
			r.Privs = append(r.Privs, "VM.Console")
		}, "surplus", doctor.Warning, "VM.Console on /pool/agentlab", "", nil},
		"another-storage":   {grant("/storage/backup", "PVEDatastoreUser"), "surplus", doctor.Warning, "Datastore.AllocateSpace, Datastore.Audit on /storage/backup", "", nil},
		"storage-not-seen":  {revoke("/storage/local", ""), "storage local", doctor.Failed, "does not see it", "", nil},
		"storage-no-images": {func(c *pvetest.Cluster, _ *settings) { c.Storages[0].Content = "iso,backup" }, "storage local", doctor.Failed, "does not take disks", "", nil},
		"storage-almost-full": {
			func(c *pvetest.Cluster, _ *settings) { c.Storages[0].Used = c.Storages[0].Size - 1<<30 },
			"storage local", doctor.Warning, "1 GiB free on pve", "make room", func(c *pvetest.Cluster, _ *settings) { c.Storages[0].Used = 0 },
		},
		"storage-down": {
			func(c *pvetest.Cluster, s *settings) {
				c.AddNode("pve2").Down = true
				grant("/nodes", "PVEAuditor")(c, s)
			},
			"storage local", doctor.Warning, "not available on pve2", "pvesm status", func(c *pvetest.Cluster, _ *settings) { c.Nodes[1].Down = false },
		},
		"tags-none":          {tagRules("user-tag-access", "user-allow=none"), "tags", doctor.Failed, "user-allow=none", "", nil},
		"tags-listed":        {tagRules("user-tag-access", "user-allow=list,user-allow-list=agentlab"), "tags", doctor.Failed, "user-allow=list", "", nil},
		"tags-existing":      {tagRules("user-tag-access", "user-allow=existing"), "tags", doctor.Failed, "user-allow=existing", "", nil},
		"tag-registered":     {tagRules("registered-tags", "agentlab"), "tags", doctor.Failed, "registered-tags", "", nil},
		"tags-registered":    {tagRules("registered-tags", "agentlab;prod"), "tags", doctor.Failed, "registered-tags", "", nil},
		"bridge-not-allowed": {revoke("/sdn/zones/localnetwork/vmbr0", ""), "bridge vmbr0", doctor.Failed, "may not use it", "", nil},
		"no-bridge": {
			func(c *pvetest.Cluster, s *settings) {
				s.bridge = "vmbr7"
				grant("/sdn/zones/localnetwork/vmbr7", "AgentLabNetwork")(c, s)
			},
			"bridge vmbr7", doctor.Failed, "it is not on pve", "set proxmox_bridge", func(c *pvetest.Cluster, _ *settings) { c.Nodes[0].Bridges = append(c.Nodes[0].Bridges, "vmbr7") },
		},
		"range-used-by-hidden": {
			func(c *pvetest.Cluster, _ *settings) { c.AddVM("pve", 5001, "mail") },
			"vmids", doctor.Warning, "of 100 others 1 by machines that the token does not see", "set proxmox_vmid_range", anotherRange,
		},
		"range-used-by-others": {
			func(c *pvetest.Cluster, _ *settings) {
				c.AddVM("pve", 5001, "mail")
				c.Pools["agentlab"].VMs[5001] = true
			},
			"vmids", doctor.Warning, "not of this installation: 5001 (mail)", "set proxmox_vmid_range", anotherRange,
		},
		"range-full": {
			func(c *pvetest.Cluster, s *settings) {
				s.vmids = proxmox.Range{First: 5001, Last: 5001}
				c.AddVM("pve", 5001, "mail")
			},
			"vmids", doctor.Failed, "none is free", "widen proxmox_vmid_range", anotherRange,
		},
	}
	for name, tt := range all {
		for _, version := range versions {
			t.Run(name+"/"+version, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, &pvetest.Server{Version: version})
				s := l.settings()
				healthy := *s
				l.Edit(func(c *pvetest.Cluster) { tt.spoil(c, s) })
				r := find(t, s.check(t), tt.check)
				if r.Status != tt.status || !strings.Contains(r.Detail, tt.detail) || !strings.Contains(r.Do, tt.do) || tt.do == "" && len(r.Run) == 0 {
					t.Fatalf("result %+v, want %s with %q, and as mend %q", r, tt.status, tt.detail, tt.do)
				}
				switch {
				case tt.mend != nil:
					l.Edit(func(c *pvetest.Cluster) { tt.mend(c, s) })
				case tt.do != "":
					s = &healthy // the setting is what was wrong
				default:
					l.shell(t, r.Run)
				}
				if tt.check == "api" || tt.check == "token" && tt.status == doctor.Failed {
					s = &healthy
				}
				for _, r := range s.check(t) {
					if r.Check == tt.check && r.Status != doctor.OK {
						t.Errorf("after it was mended: %+v", r)
					}
				}
			})
		}
	}
}

func anotherRange(_ *pvetest.Cluster, s *settings) { s.vmids = proxmox.Range{First: 6000, Last: 6099} }

func unconvert(c *pvetest.Cluster) {
	vm := c.VMs[9000]
	delete(vm.Config, "template")
	for id := range c.Volumes {
		if strings.Contains(id, "base-9000") {
			delete(c.Volumes, id)
		}
	}
	*vm = *c.AddVM("pve", 9000, "debian")
}

func TestOldVersion(t *testing.T) {
	l := newLab(t, &pvetest.Server{Version: "8.2.4"})
	if bad := unlike(l.settings().check(t)); bad != nil {
		t.Errorf("8.2 is not good: %q", bad)
	}
	srv := &pvetest.Server{Version: "8.1.4"}
	t.Cleanup(srv.Close)
	var secret string
	srv.Edit(func(c *pvetest.Cluster) { secret = c.AddToken(tokenID, true) })
	s := &settings{url: srv.Listen("pve"), secret: tokenID + "=" + secret, trust: pve.Trust{Fingerprint: srv.Fingerprint("pve")}}
	r := find(t, s.check(t), "version")
	if r.Status != doctor.Failed || !strings.Contains(r.Detail, "8.2 is the least") || len(r.Run) == 0 {
		t.Errorf("result %+v", r)
	}
}

// As root by pvesh there is no token to check.
func TestPvesh(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	d := l.settings().doctor(t)
	for _, kv := range l.env {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	d.Backend.Client = &pve.Client{Transport: pve.NewPvesh(pve.Local{})}
	d.URL, d.Token, d.Trust = "", "", pve.Trust{}
	results := d.Check(t.Context())
	if bad := unlike(results); bad != nil {
		t.Errorf("results %q", bad)
	}
	if r := find(t, results, "tls"); !strings.Contains(r.Detail, "not used") {
		t.Errorf("result %+v", r)
	}
}

// What is too much is told where it was given, not wherever it reaches.
func TestSurplusIsToldOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*pvetest.Cluster, *settings)
		run   int
		want  string
	}{
		"everywhere": {grant("/", "PVEPoolUser"), 1, "the token may do more than it must: Pool.Audit on /"},
		"pool": {func(c *pvetest.Cluster, _ *settings) {
			c.Roles["AgentLabPool"].Privs = append(c.Roles["AgentLabPool"].Privs, "VM.Console")
		}, 1, "the token may do more than it must: VM.Console on /pool/agentlab"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			s := l.settings()
			l.Edit(func(c *pvetest.Cluster) {
				c.AddVM("pve", 5001, "ours")
				c.Pools["agentlab"].VMs[5001] = true
				tt.spoil(c, s)
			})
			if r := find(t, s.check(t), "surplus"); r.Detail != tt.want || len(r.Run) != tt.run {
				t.Errorf("result %+v, want %q", r, tt.want)
			}
		})
	}
}

// Only what concerns the missing privilege is to be run.
func TestMendsOnlyThat(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.Edit(func(c *pvetest.Cluster) {
		for _, role := range []string{"AgentLabPool", "AgentLabNetwork"} {
			delete(c.Roles, role)
		}
		revoke("/storage/local", "")(c, nil)
	})
	r := find(t, l.settings().check(t), "storage local")
	want := []string{"pvesh set /access/acl --path /storage/local --propagate 1 --roles AgentLabStorage --tokens 'agentlab@pve!agentlab' --users agentlab@pve"}
	if diff := cmp.Diff(want, r.Run); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

// A token that may not look at itself is a good one all the same.
func TestTokenThatSeesNoTokens(t *testing.T) {
	l := newLab(t, &pvetest.Server{Fail: func(r *http.Request) *pvetest.Fault {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/token") && strings.HasPrefix(r.Header.Get("Authorization"), "PVEAPIToken") {
			return &pvetest.Fault{Status: 403, Reason: "Permission check failed (/access/groups, User.Modify)"}
		}
		return nil
	}})
	if bad := unlike(l.settings().check(t)); bad != nil {
		t.Errorf("results %q", bad)
	}
}

// Neither results nor their JSON hold the secret.
func TestNoSecret(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	data, err := json.Marshal(l.settings().check(t))
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(l.secret, "=")
	if strings.Contains(string(data), secret) || !strings.Contains(fmt.Sprint(string(data)), `"status":"ok"`) {
		t.Errorf("JSON %s", data)
	}
}
