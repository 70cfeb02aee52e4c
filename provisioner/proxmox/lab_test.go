package proxmox

import (
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

const (
	testInstance = "inst-1"
	testPool     = "agentlab"
	testUser     = "agentlab@pve"
	testToken    = testUser + "!t1"
)

var testRange = Range{5000, 5999}

// lab is a cluster with the template 9000 called debian, a pool, and a token
// that has only the rights that setup gives it.
type lab struct {
	t   *testing.T
	srv *pvetest.Server
	tok redact.String

	mu    sync.Mutex
	fail  func(*http.Request) *pvetest.Fault
	calls map[string]int // by method and the last word of the path
}

// onCall decides what goes wrong with the calls from now on.
func (l *lab) onCall(f func(*http.Request) *pvetest.Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail, l.calls = f, map[string]int{}
}

func (l *lab) hook(r *http.Request) *pvetest.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[callName(r)]++
	if l.fail == nil {
		return nil
	}
	return l.fail(r)
}

// callName is such as "POST clone"; digits are left out.
func callName(r *http.Request) string {
	return r.Method + " " + strings.Trim(path.Base(r.URL.Path), "0123456789")
}

// counted returns the calls made since the last onCall.
func (l *lab) counted() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.calls)
}

// rights are what the token needs, by path.
func rights(major9 bool, templates ...int) map[string][]string {
	agent := []string{"VM.Monitor"}
	if major9 {
		agent = []string{"VM.GuestAgent.Unrestricted"}
	}
	r := map[string][]string{
		"/pool/" + testPool: append(agent, "VM.Allocate", "VM.Audit", "VM.PowerMgmt", "VM.Config.Cloudinit", "VM.Config.Options", "VM.Config.CPU",
			"VM.Config.Memory", "VM.Config.Disk", "VM.Config.Network", "Pool.Audit"),
		"/storage/local":                {"Datastore.AllocateSpace", "Datastore.Audit"},
		"/sdn/zones/localnetwork/vmbr0": {"SDN.Use"},
	}
	for _, id := range templates {
		r[fmt.Sprintf("/vms/%d", id)] = []string{"VM.Audit", "VM.Clone"}
	}
	return r
}

// grant gives the token privileges on a path.
func grant(c *pvetest.Cluster, path string, privs ...string) {
	role := "R" + strings.ReplaceAll(path, "/", "-")
	c.Roles[role] = &pvetest.Role{Privs: privs}
	for _, who := range []string{testUser, testToken} { // what it may do is what both may
		c.ACL = append(c.ACL, pvetest.ACL{Path: path, Role: role, Who: who, Propagate: true})
	}
}

func newLab(t *testing.T, srv *pvetest.Server) *lab {
	t.Helper()
	l := &lab{t: t, srv: srv, calls: map[string]int{}}
	srv.Fail = l.hook
	t.Cleanup(srv.Close)
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddTemplate("pve", 9000, "debian")
		c.Pools[testPool] = &pvetest.Pool{VMs: map[int]bool{}}
		l.tok = redact.String(testToken + "=" + c.AddToken(testToken, true))
		for path, privs := range rights(strings.HasPrefix(srv.Version, "9"), 9000, 9001, 9002, 9003) {
			grant(c, path, privs...)
		}
	})
	return l
}

// open returns a provisioner as a new process would have it.
func (l *lab) open(instance string, key provisioner.Key) *Provisioner {
	l.t.Helper()
	h, err := pve.NewHTTPS(l.srv.Listen("pve"), pve.Auth{Token: l.tok}, pve.Trust{Fingerprint: l.srv.Fingerprint("pve")})
	if err != nil {
		l.t.Fatal(err)
	}
	return &Provisioner{
		Client: &pve.Client{Transport: h}, Key: key, Instance: instance, Pool: testPool, VMIDs: testRange, Template: "debian",
		grace: 50 * time.Millisecond,
	}
}

func (l *lab) provisioner() *Provisioner { return l.open(testInstance, provisionertest.Key(l.t, 1)) }

// wantNothingLeft is what must be once all is destroyed.
func (l *lab) wantNothingLeft(t testing.TB) {
	t.Helper()
	if left := l.leftovers(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// leftovers names all that is there besides templates.
func (l *lab) leftovers() (all []string) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			if vm.Config["template"] != "1" {
				all = append(all, fmt.Sprintf("VM %d: %v", id, vm.Config))
			}
		}
		for id, v := range c.Volumes {
			if v.VMID < 9000 {
				all = append(all, "volume "+id)
			}
		}
		for id := range c.Pools[testPool].VMs {
			all = append(all, fmt.Sprintf("member %d", id))
		}
	})
	slices.Sort(all)
	return all
}

// snapshot is all configs, to see whether something was touched.
func (l *lab) configs() map[int]map[string]string {
	all := map[int]map[string]string{}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			all[id] = maps.Clone(vm.Config)
			all[id]["running"] = fmt.Sprint(vm.Running)
		}
	})
	return all
}

func testSpec(n int) provisioner.Spec {
	now := time.Now().Truncate(time.Second).UTC()
	return provisioner.Spec{
		Papers: provisioner.Papers{
			Instance: testInstance, Sandbox: fmt.Sprintf("sb-%d", n), Owner: "local:1000", Profile: "p",
			Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(2 * time.Hour), MemoryMB: 256,
		},
		Hostname: fmt.Sprintf("box-%d", n), Cores: 1, MemoryMB: 256, DiskMB: 3072, MaxProcs: 100, Network: "none",
	}
}
