package proxmox

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// addNodes adds nodes pve2, pve3... each with a template of its own, 9001, 9002...
func (l *lab) addNodes(n int) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		for i := range n {
			node := fmt.Sprintf("pve%d", i+2)
			c.AddNode(node)
			c.AddTemplate(node, 9001+i, "debian")
		}
	})
}

// nodes counts the machines on each node.
func (l *lab) nodes() map[string]int {
	on := map[string]int{}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for _, vm := range c.VMs {
			if vm.Config["template"] != "1" {
				on[vm.Node]++
			}
		}
	})
	return on
}

func TestHundredCreatesOnFourNodes(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.addNodes(3)
	p := l.provisioner()
	l.onCall(nil)
	var wg sync.WaitGroup
	machines := make([]provisioner.Machine, 100)
	for i := range machines {
		wg.Go(func() {
			var err error
			if machines[i], err = p.Create(t.Context(), testSpec(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[string]int{"pve": 25, "pve2": 25, "pve3": 25, "pve4": 25}, l.nodes()); diff != "" {
		t.Errorf("machines on each node (-want +got):\n%s", diff)
	}
	calls, total := l.counted(), 0
	for name, n := range calls {
		if name != "GET status" && name != "GET tasks" { // polls
			total += n
		}
	}
	if total > 8*len(machines) {
		t.Errorf("%d calls besides polls for %d machines: %v", total, len(machines), calls)
	}
	list, err := p.List(t.Context())
	if err != nil || len(list) != len(machines) {
		t.Errorf("List: %d machines, %v", len(list), err)
	}
	for _, m := range machines {
		wg.Go(func() {
			if err := p.Destroy(t.Context(), m.Ref); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l.wantNothingLeft(t)
}

// A step that fails twice on a node makes Create try another; where it can't
// get any better, once is enough.
func TestAnotherNode(t *testing.T) {
	for name, tt := range map[string]struct {
		call  string
		fault pvetest.Fault
		tries int
	}{
		"clone":       {"POST clone", pvetest.Fault{Status: 500, Reason: "storage 'local' is not online"}, 2},
		"configure":   {"PUT config", pvetest.Fault{Status: 500, Reason: "unable to write"}, 2},
		"start":       {"POST start", pvetest.Fault{Status: 500, Reason: "got no worker upid"}, 2},
		"unreachable": {"POST clone", pvetest.Fault{Status: 595, Reason: "No route to host"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			l.addNodes(1)
			l.srv.Edit(func(c *pvetest.Cluster) { // the first is chosen first
				grant(c, "/nodes", "Sys.Audit")
				c.Nodes[0].Memory *= 2
			})
			tries := 0
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) == tt.call && strings.Contains(r.URL.Path, "/nodes/pve/") {
					tries++
					return &tt.fault
				}
				return nil
			})
			m, err := l.provisioner().Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]int{"pve2": 1}, l.nodes()); diff != "" || tries != tt.tries {
				t.Errorf("machine %s after %d tries, want %d; left:\n%s", m.Handle, tries, tt.tries, diff)
			}
		})
	}
}

// A node that is down is not chosen, and its machines are not given up.
func TestNodeDown(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.addNodes(1)
	l.srv.Edit(func(c *pvetest.Cluster) {
		grant(c, "/nodes", "Sys.Audit")
		c.Nodes[1].Memory *= 2
	})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.Nodes[1].Down = true })
	list, err := p.List(t.Context())
	if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
		t.Errorf("List: %v\n%s", err, diff)
	}
	unread := []provisioner.Machine{{Ref: provisioner.Ref{Handle: m.Handle}, Unread: true}}
	list, err = l.provisioner().List(t.Context())
	if diff := cmp.Diff(unread, list); diff != "" || err != nil {
		t.Errorf("List of who never read its papers: %v\n%s", err, diff)
	}
	if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("Destroy: %v", err)
	}
	for _, p := range []*Provisioner{p, l.provisioner()} {
		if _, err := p.Create(t.Context(), testSpec(2)); err != nil {
			t.Errorf("Create: %v", err)
		}
	}
	if diff := cmp.Diff(map[string]int{"pve": 1, "pve2": 1}, l.nodes()); diff != "" {
		t.Errorf("machines on each node (-want +got):\n%s", diff)
	}
}

func TestNoMemory(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		grant(c, "/nodes", "Sys.Audit")
		c.Nodes[0].Memory = 2 << 30 // of which 1 GiB is in use
	})
	spec := testSpec(1)
	spec.MemoryMB = 1500
	if _, err := l.provisioner().Create(t.Context(), spec); !errors.Is(err, provisioner.ErrExhausted) || !strings.Contains(err.Error(), "1500 MB of memory") {
		t.Errorf("Create: %v", err)
	}
}

// A template on shared storage serves all nodes.
func TestSharedTemplate(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.Storages[0].Shared = true
		grant(c, "/nodes", "Sys.Audit")
		c.AddNode("pve2").Memory *= 2
	})
	m, err := l.provisioner().Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"pve2": 1}, l.nodes()); diff != "" {
		t.Errorf("machine %s is elsewhere:\n%s", m.Handle, diff)
	}
}

// An edit that does not show in the tags comes out when the config is read
// again, which happens to a few in each look.
func TestListReadsAgain(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	for i := range 5 {
		if _, err := p.Create(t.Context(), testSpec(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for _, vm := range c.VMs {
			vm.Config["description"] = "mine"
		}
	})
	for range 3 {
		if _, err := p.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := p.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v", list, err)
	}
}

// A machine that its user switched off does not run, and is asked about once.
func TestListTellsWhatRuns(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	vm := pve.VM{Node: "pve", ID: handleID(t, m)}
	want := func(running bool) {
		t.Helper()
		list, err := p.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Running != running {
			t.Errorf("List: %+v, %v; want it to run: %v", list, err, running)
		}
	}
	want(true)
	if task, err := p.Client.Stop(t.Context(), vm, pve.StopOptions{}); p.await(t.Context(), task, err) != nil {
		t.Fatal("not stopped")
	}
	want(false)
	l.onCall(nil)
	want(false)
	if n := l.counted()["GET current"]; n != 0 {
		t.Errorf("%d questions about a machine that is known to be off", n)
	}
}
