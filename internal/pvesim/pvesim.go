// Package pvesim puts up a simulated Proxmox VE as its administrator would for
// AgentLab: a template, a pool, a token with no more rights than it needs, and
// beside them machines of others. It says how AgentLab is to be configured for
// it, and at the end what is not as it was.
//
// A program that uses New calls [pvetest.GuestMain] first in its main: machines
// are processes of that program.
package pvesim

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest/qemuguest"
)

// Names of what there is.
const (
	Node     = "pve"
	Template = "debian-12"
	Pool     = "agentlab"
	user     = "agentlab@pve"
	tokenID  = user + "!agentlab"
)

const (
	templateID = 9000
	firstID    = 10000 // of the range
	lastID     = 10999
)

// Sim is a simulated Proxmox VE.
type Sim struct {
	Server *pvetest.Server
	token  string
	down   atomic.Bool
	before map[string]string // what there is that is not ours
}

// New puts one up, of a version such as 8.4.21, whose machines are processes
// that keep their files below dir. The caller closes it.
func New(dir, version string) (*Sim, error) {
	guests := filepath.Join(dir, "guests")
	if err := os.MkdirAll(guests, 0o711); err != nil {
		return nil, err
	}
	return Furnish(&pvetest.Server{Version: version, NewGuest: (&pvetest.ProcessGuests{Dir: guests}).New}), nil
}

// NewVMs is New with machines that QEMU boots. The first of a user's takes one or
// two minutes more, in which their image is built; an error says what is missing
// for it.
func NewVMs(ctx context.Context, dir, version string) (*Sim, error) {
	image, err := qemuguest.Cached(ctx)
	if err != nil {
		return nil, err
	}
	guests := &qemuguest.Guests{Image: image, Dir: filepath.Join(dir, "guests")}
	return Furnish(&pvetest.Server{Version: version, NewGuest: guests.New, Destroyed: guests.Destroyed, Patience: vmPatience}), nil
}

// vmPatience is how long an agent gets that an emulated processor runs, perhaps
// one of many.
const vmPatience = 20 * time.Second

// Furnish makes one of a server that was never used, with the guests it has. It
// replaces the server's Fail.
func Furnish(srv *pvetest.Server) *Sim {
	s := &Sim{Server: srv}
	srv.Fail = s.fail
	s.Server.Edit(func(c *pvetest.Cluster) {
		c.AddTemplate(Node, templateID, Template)
		c.Pools[Pool] = &pvetest.Pool{VMs: map[int]bool{}}
		s.token = tokenID + "=" + c.AddToken(tokenID, true)
		for path, privs := range rights(srv.Version) {
			grant(c, path, privs)
		}
		others(c)
	})
	s.before = s.everything()
	return s
}

// others adds machines that are not ours though they look like it: in our pool,
// in our range, with our tag.
func others(c *pvetest.Cluster) {
	for _, id := range []int{200, firstID, firstID + 1} {
		vm := c.AddVM(Node, id, "of-somebody-else")
		vm.Config["tags"] = "agentlab"
		c.Pools[Pool].VMs[id] = true
	}
}

// rights are what the token needs, by path (measured, on 8.4 and 9.2).
func rights(version string) map[string][]string {
	agent := "VM.Monitor"
	if strings.HasPrefix(version, "9.") {
		agent = "VM.GuestAgent.Unrestricted"
	}
	return map[string][]string{
		fmt.Sprintf("/vms/%d", templateID): {"VM.Audit", "VM.Clone"},
		"/pool/" + Pool: {
			agent, "Pool.Audit", "VM.Allocate", "VM.Audit", "VM.PowerMgmt", "VM.Config.CPU", "VM.Config.Cloudinit",
			"VM.Config.Disk", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options",
		},
		"/storage/local":                {"Datastore.AllocateSpace", "Datastore.Audit"},
		"/sdn/zones/localnetwork/vmbr0": {"SDN.Use"},
	}
}

// grant gives privileges to the token and its user: it may do what both may.
func grant(c *pvetest.Cluster, path string, privs []string) {
	role := "R" + strings.ReplaceAll(path, "/", "-")
	c.Roles[role] = &pvetest.Role{Privs: privs}
	for _, who := range []string{user, tokenID} {
		c.ACL = append(c.ACL, pvetest.ACL{Path: path, Role: role, Who: who, Propagate: true})
	}
}

// Token is the API token that AgentLab calls with.
func (s *Sim) Token() string { return s.token }

// Add adds a machine of somebody else, which looks as little like ours as can be,
// and says whether its VMID was free.
func (s *Sim) Add(id int) bool {
	free := false
	s.Server.Edit(func(c *pvetest.Cluster) {
		if free = c.VMs[id] == nil; free {
			c.AddVM(Node, id, "of-somebody-else")
		}
	})
	if free {
		for what, is := range s.everything() {
			if what == fmt.Sprintf("VM %d", id) || strings.Contains(what, fmt.Sprintf(":%d/", id)) {
				s.before[what] = is
			}
		}
	}
	return free
}

// Config returns the lines of config.yaml for reaching it over HTTPS.
func (s *Sim) Config() string {
	return fmt.Sprintf("proxmox_api_url: %s\nproxmox_api_token: %s\nproxmox_tls_fingerprint: %s\n%s",
		s.Server.Listen(Node), s.token, s.Server.Fingerprint(Node), common)
}

// ShellConfig returns the lines of config.yaml for reaching it by pvesh, and
// the environment variable that makes [pvetest.PveshMain] the pvesh of it.
// socket is a path for a Unix socket.
func (s *Sim) ShellConfig(socket string) (lines, env string, err error) {
	env, err = s.Server.ServePvesh(Node, socket)
	return "proxmox_backend: shell\n" + common, env, err
}

var common = fmt.Sprintf("proxmox_pool: %s\nproxmox_vmid_range: %d-%d\nproxmox_template: %s\n", Pool, firstID, lastID, Template)

// Changed names what is not as it was when the simulator was put up: nothing,
// once all sandboxes are gone.
func (s *Sim) Changed() []string {
	now := s.everything()
	var changed []string
	for what, is := range now {
		switch was, ok := s.before[what]; {
		case !ok:
			changed = append(changed, what+" is left: "+is)
		case was != is:
			changed = append(changed, fmt.Sprintf("%s was %s, is %s", what, was, is))
		}
	}
	for what := range s.before {
		if _, ok := now[what]; !ok {
			changed = append(changed, what+" is gone")
		}
	}
	slices.Sort(changed)
	return changed
}

// everything describes what there is, by its name.
func (s *Sim) everything() map[string]string {
	all := map[string]string{}
	s.Server.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			all[fmt.Sprintf("VM %d", id)] = fmt.Sprintf("on %s, running %v, %v", vm.Node, vm.Running, vm.Config)
		}
		for id, v := range c.Volumes {
			all["volume "+id] = fmt.Sprintf("%d bytes of VM %d", v.Size, v.VMID)
		}
		for id, p := range c.Pools {
			all["pool "+id] = fmt.Sprintf("with %v", slices.Sorted(maps.Keys(p.VMs)))
		}
	})
	return all
}

// Summary says in a line what there is.
func (s *Sim) Summary() string {
	var vms []string
	volumes := 0
	s.Server.Edit(func(c *pvetest.Cluster) {
		for _, id := range slices.Sorted(maps.Keys(c.VMs)) {
			vms = append(vms, fmt.Sprintf("%d (%s)", id, c.VMs[id].Config["name"]))
		}
		volumes = len(c.Volumes)
	})
	return fmt.Sprintf("VMs %s; %d volumes", strings.Join(vms, ", "), volumes)
}

// SetDown takes the server off the network, or brings it back. Machines run on.
func (s *Sim) SetDown(down bool) { s.down.Store(down) }

func (s *Sim) fail(*http.Request) *pvetest.Fault {
	if s.down.Load() {
		return &pvetest.Fault{Drop: true}
	}
	return nil
}

// Close ends it and all machines on it.
func (s *Sim) Close() { s.Server.Close() }
