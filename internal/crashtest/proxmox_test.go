package crashtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// cluster is a simulated Proxmox VE. Beside ours it has machines of others: see
// [pvesim.Furnish].
type cluster struct {
	*pvesim.Sim
	foreign map[string]bool // VMIDs that are not ours

	lost []string // what strip has left

	mu      sync.Mutex
	calls   []string      // that change something that is not ours
	shutter chan struct{} // clones wait until it is closed; nil is that they don't
	waiting int           // clones that do
	most    int           // that ever did
}

// cloneTime is how long a clone takes: long enough for the next daemon to find it
// under way.
const cloneTime = 300 * time.Millisecond

// vmidCall is a call to a machine.
var vmidCall = regexp.MustCompile(`/qemu/(\d+)(/\w+)?`)

// onCluster is a world of virtual machines.
func onCluster(t *testing.T, st *stage.Stage) world {
	t.Helper()
	c := &cluster{foreign: map[string]bool{}}
	guests := filepath.Join(st.Dir, "guests")
	if err := os.Mkdir(guests, 0o711); err != nil {
		t.Fatal(err)
	}
	c.Sim = pvesim.Furnish(&pvetest.Server{
		NewGuest: (&pvetest.ProcessGuests{Dir: guests}).New, Hold: c.watch,
		TaskTime: map[string]time.Duration{"qmclone": cloneTime},
	})
	t.Cleanup(c.Close)
	c.Server.Edit(func(all *pvetest.Cluster) {
		for id := range all.VMs {
			c.foreign[fmt.Sprint(id)] = true
		}
	})
	if err := st.Configure(c.Config() + "reconcile_every: 2s\n"); err != nil {
		t.Fatal(err)
	}
	if err := st.AddProfile("default", "backend: proxmox\nmin_ttl: 1s\n"); err != nil {
		t.Fatal(err)
	}
	return c
}

// watch notes the calls that would change what is another's.
func (c *cluster) watch(r *http.Request) func() {
	m := vmidCall.FindStringSubmatch(r.URL.Path)
	switch {
	case m == nil || r.Method == http.MethodGet:
	case m[2] == "/clone":
		c.hold()
	case c.foreign[m[1]]:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls = append(c.calls, r.Method+" "+r.URL.Path)
	}
	return func() {}
}

// shut makes all clones wait from now on until open is called.
func (c *cluster) shut() (open func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	shutter := make(chan struct{})
	c.shutter = shutter
	return sync.OnceFunc(func() { close(shutter) })
}

// hold waits while the cluster is shut.
func (c *cluster) hold() {
	c.mu.Lock()
	shutter := c.shutter
	c.waiting++
	c.most = max(c.most, c.waiting)
	c.mu.Unlock()
	if shutter != nil {
		<-shutter
	}
	c.mu.Lock()
	c.waiting--
	c.mu.Unlock()
}

// mostHeld is how many ever waited at once.
func (c *cluster) mostHeld() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

func (*cluster) name() string { return "proxmox" }

func (*cluster) plant(*testing.T) {} // there are others

func (c *cluster) machines(*testing.T) []string {
	var all []string
	c.each(func(id int, vm *pvetest.VM) { all = append(all, fmt.Sprintf("VM %d %v", id, vm.Config)) })
	slices.Sort(all)
	return all
}

func (c *cluster) papers(_ *testing.T, id string) (text string) {
	c.each(func(_ int, vm *pvetest.VM) {
		if strings.Contains(vm.Config["description"], id) {
			text = vm.Config["description"]
		}
	})
	return text
}

// each shows our machines to f.
func (c *cluster) each(f func(id int, vm *pvetest.VM)) {
	c.Server.Edit(func(all *pvetest.Cluster) {
		for id, vm := range all.VMs {
			if !c.foreign[fmt.Sprint(id)] {
				f(id, vm)
			}
		}
	})
}

func (c *cluster) left(*testing.T) []string { return c.Changed() }

func (c *cluster) touched(*testing.T) []string {
	c.mu.Lock()
	touched := slices.Clone(c.calls)
	c.calls = nil
	c.mu.Unlock()
	for _, what := range c.Changed() {
		if !strings.Contains(what, " is left: ") && !strings.HasPrefix(what, "pool ") { // which has ours, too
			touched = append(touched, what)
		}
	}
	return touched
}

// slay stops them as an administrator would.
func (c *cluster) slay(t *testing.T) {
	t.Helper()
	c.asAnother(t, http.MethodPost, "/status/stop")
}

// take deletes them.
func (c *cluster) take(t *testing.T) {
	t.Helper()
	c.slay(t)
	c.asAnother(t, http.MethodDelete, "")
}

// asAnother has somebody else call the API for each of our machines.
func (c *cluster) asAnother(t *testing.T, method, call string) {
	t.Helper()
	const token = "root@pam!another"
	var secret string
	var paths []string
	c.Server.Edit(func(all *pvetest.Cluster) { secret = all.AddToken(token, false) })
	c.each(func(id int, vm *pvetest.VM) {
		paths = append(paths, fmt.Sprintf("/api2/json/nodes/%s/qemu/%d%s", vm.Node, id, call))
	})
	for _, path := range paths {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Authorization", "PVEAPIToken="+token+"="+secret)
		w := httptest.NewRecorder()
		c.Server.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	c.rest(t)
}

// rest waits until the cluster has done what it was asked for.
func (c *cluster) rest(t *testing.T) {
	t.Helper()
	busy := true
	for end := time.Now().Add(patience); busy; time.Sleep(10 * time.Millisecond) {
		c.Server.Edit(func(all *pvetest.Cluster) { busy = all.Busy() })
		if time.Now().After(end) {
			t.Fatal("a task of the cluster does not end")
		}
	}
}

// strip waits for what the daemon has begun before.
func (c *cluster) strip(t *testing.T) {
	t.Helper()
	c.rest(t)
	c.each(func(_ int, vm *pvetest.VM) {
		delete(vm.Config, "description")
		delete(vm.Config, "tags")
	})
	c.lost = c.stripped(t)
}

func (c *cluster) bereft() []string { return c.lost }

func (c *cluster) stripped(*testing.T) []string {
	var all []string
	c.each(func(id int, vm *pvetest.VM) {
		if vm.Config["description"] == "" {
			all = append(all, fmt.Sprintf("VM %d on %s, running %v, %v", id, vm.Node, vm.Running, vm.Config))
		}
	})
	slices.Sort(all)
	return all
}

// clear removes them.
func (c *cluster) clear(*testing.T) {
	c.Server.Edit(func(all *pvetest.Cluster) {
		for id := range all.VMs {
			if c.foreign[fmt.Sprint(id)] || all.VMs[id].Config["description"] != "" {
				continue
			}
			delete(all.VMs, id)
			delete(all.Pools[pvesim.Pool].VMs, id)
			for volume, v := range all.Volumes {
				if v.VMID == id {
					delete(all.Volumes, volume)
				}
			}
		}
	})
}
