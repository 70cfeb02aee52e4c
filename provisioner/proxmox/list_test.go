package proxmox

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Of several machines with the papers of a sandbox, the whole one is listed as
// its own.
func TestListPrefersWholeMachines(t *testing.T) {
	for _, twin := range []int{testRange.First, testRange.Last} {
		l := newLab(t, &pvetest.Server{Staleness: -1})
		first := l.provisioner()
		first.VMIDs = Range{5100, 5200}
		m, _ := makeOne(t, first, 1)
		text, err := first.seal(twin, draft, m.Papers)
		if err != nil {
			t.Fatal(err)
		}
		l.srv.Edit(func(c *pvetest.Cluster) {
			c.AddVM("pve", twin, "twin").Config["description"] = text
			c.Pools[testPool].VMs[twin] = true
		})
		if list, err := l.provisioner().List(t.Context()); err != nil || len(list) != 2 || list[0].Handle != m.Handle || list[0].Spare || !list[1].Spare {
			t.Errorf("List beside %d: %+v, %v; want %s, and the other as spare", twin, list, err, m.Handle)
		}
	}
}

// A machine of which the inventory says nothing yet, and that vanishes when it
// is asked about, or whose node does, or of which nobody can say whether it runs,
// keeps the others from nothing.
func TestListWhileMachinesVanish(t *testing.T) {
	for name, tt := range map[string]struct {
		fault   pvetest.Fault
		running bool
	}{
		"gone":        {pvetest.Fault{Status: 500, Reason: "Configuration file 'nodes/pve/qemu-server/1.conf' does not exist"}, false},
		"forbidden":   {pvetest.Fault{Status: 403, Reason: "Permission check failed (/vms/1, VM.Audit)"}, false},
		"unreachable": {pvetest.Fault{Status: 595, Reason: "No route to host"}, true},
		"broken":      {pvetest.Fault{Status: 500, Reason: "unable to parse manager_status"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: time.Hour}) // the cycle of pvestatd knows nothing of it yet
			p := l.provisioner()
			makeOne(t, p, 1)
			asked := false
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) != "GET current" {
					return nil
				}
				asked = true
				return &tt.fault
			})
			if list, err := p.List(t.Context()); err != nil || len(list) != 1 || list[0].Running != tt.running || !asked {
				t.Errorf("List: %+v, %v; asked: %v", list, err, asked)
			}
		})
	}
}

// A look that is older than what we know, or that shows a machine that is being
// made, changes nothing.
func TestOldLooksChangeNothing(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	p.init()
	old, err := p.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, id := makeOne(t, p, 1)
	if found, _, err := p.survey(t.Context(), old, 0); len(found) > 0 || err != nil {
		t.Errorf("an old look shows %+v, %v", found, err)
	}
	if vms := p.all(m.Sandbox); len(vms) != 1 {
		t.Errorf("after an old look, %v is known", vms)
	}
	last := p.last
	if _, err := p.look(t.Context()); err != nil || p.last == last {
		t.Errorf("a new look does not count: %v", err)
	}
	p.forget(id)
	p.making[id] = true
	if ask := p.unread(p.last, 9); len(ask) > 0 {
		t.Errorf("what is being made is read: %+v", ask)
	}
}

// A clone that was given up, since nothing was to be seen of it, comes into
// being after all, under an ID that we take for free. The next look reads it,
// however many machines there are that were read longer ago.
func TestLateMachineUnderABuriedID(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	for n := range rereads + 1 {
		makeOne(t, p, n)
	}
	m, id := makeOne(t, p, 9)
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	text, err := p.seal(id, draft, m.Papers)
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.AddVM("pve", id, "late").Config["description"] = text
		c.Pools[testPool].VMs[id] = true
	})
	list, err := p.List(t.Context())
	if err != nil || !slices.ContainsFunc(list, func(late provisioner.Machine) bool { return late.Sandbox == m.Sandbox }) {
		t.Errorf("List: %+v, %v; want the one of %s among them", list, err, m.Sandbox)
	}
}
