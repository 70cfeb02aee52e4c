package proxmox

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// addCrowd adds a thousand running machines of p, from VMID 5000 on, and nine
// thousand of others. A thousand of these are in our range, and a hundred each
// look like ours in one of these ways; the token may do with them what it likes.
func (l *lab) addCrowd(p *Provisioner) (imposters map[string]int) {
	ours := func(n int) (text, tags string) {
		text, tags, err := p.Inscribe(5000+n, testSpec(n).Papers)
		if err != nil {
			l.t.Fatal(err)
		}
		return text, tags
	}
	imposters = map[string]int{"tag": 6000, "mark": 6100, "name": 6200, "papers": 6300, "papers-and-mark": 6400, "all-in-the-pool": 6500}
	l.srv.Edit(func(c *pvetest.Cluster) {
		grant(c, "/vms", "VM.Audit", "VM.Allocate", "VM.PowerMgmt", "VM.Config.Options")
		for n := range 1000 {
			vm := c.AddVM("pve", 5000+n, testSpec(n).Hostname)
			vm.Config["description"], vm.Config["tags"] = ours(n)
			vm.Running, c.Pools[testPool].VMs[vm.ID] = true, true
		}
		for n := range 9000 {
			id := 6000 + n
			if n >= 1000 {
				id += 10000
			}
			vm := c.AddVM("pve", id, "foreign")
			vm.Running = true
			if n >= 600 {
				continue
			}
			text, tags := ours(n)
			switch {
			case n < 100:
				vm.Config["tags"] = tag
			case n < 200:
				vm.Config["tags"] = tags
			case n < 300:
				vm.Config["name"] = testSpec(n).Hostname
			case n < 400:
				vm.Config["description"] = text
			case n < 500:
				vm.Config["description"], vm.Config["tags"] = text, tags
			default:
				vm.Config["description"], vm.Config["tags"], vm.Config["name"] = text, tags, testSpec(n).Hostname
				c.Pools[testPool].VMs[id] = true
			}
		}
	})
	return imposters
}

// Of 10,000 machines a thousand are ours. Once they are known, a look costs few
// calls, and a change costs one more. None of the others is taken for ours or
// touched, whatever it looks like.
func TestCrowd(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	p.VMIDs = Range{5000, 7000}
	imposters := l.addCrowd(p)
	before := l.configs()
	count := func(want int) int {
		t.Helper()
		l.onCall(nil)
		list, err := p.List(t.Context())
		if err != nil || len(list) != want {
			t.Fatalf("List: %d machines, %v; want %d", len(list), err, want)
		}
		for _, m := range list {
			if id := handleID(t, m); id >= 6000 {
				t.Errorf("List has VM %d", id)
			}
		}
		n := 0
		for _, c := range l.counted() {
			n += c
		}
		return n
	}
	count(1000)
	if n := count(1000); n > 5 {
		t.Errorf("%d calls though nothing changed", n)
	}
	for name, id := range imposters {
		ref := provisioner.Ref{Sandbox: fmt.Sprintf("sb-x%d", id), Handle: fmt.Sprint(id)}
		papers := testSpec(1).Papers
		papers.Sandbox = ref.Sandbox
		if err := p.Relabel(t.Context(), ref, papers); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("Relabel of one that has %s: %v", name, err)
		}
		if err := p.Destroy(t.Context(), ref); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("Destroy of one that has %s: %v", name, err)
		}
	}
	p.cursor = 999 // so that the next VMIDs are those of others, 1000 of them
	m, err := p.Create(t.Context(), testSpec(2000))
	if err != nil || handleID(t, m) != 7000 {
		t.Fatalf("Create: %+v, %v", m, err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	after := l.configs()
	if !maps.EqualFunc(before, after, maps.Equal) {
		t.Errorf("machines were touched (-before +after):\n%s", cmp.Diff(before, after))
	}

	l.srv.Edit(func(c *pvetest.Cluster) {
		c.VMs[5007].Config["tags"] = tag
		delete(c.VMs[5007].Config, "description")
		delete(c.VMs, 5008)
	})
	if n := count(998); n > 6 {
		t.Errorf("%d calls though one machine changed", n)
	}
}
