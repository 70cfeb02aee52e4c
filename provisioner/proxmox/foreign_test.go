package proxmox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Machines of others that look like ours in one way or another, in our range,
// and in our pool where that helps them.
func TestForeignMachinesAreLeftAlone(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	id := handleID(t, m)
	other := l.open("inst-2", provisionertest.Key(t, 2))
	theirs, err := other.Create(t.Context(), func() provisioner.Spec {
		s := testSpec(2)
		s.Papers.Instance = "inst-2"
		return s
	}())
	if err != nil {
		t.Fatal(err)
	}
	looks := []func(c *pvetest.Cluster, config map[string]string){
		func(_ *pvetest.Cluster, config map[string]string) { config["tags"] = "agentlab" },
		func(c *pvetest.Cluster, config map[string]string) { config["name"] = c.VMs[id].Config["name"] },
		func(*pvetest.Cluster, map[string]string) {},
		func(c *pvetest.Cluster, config map[string]string) {
			config["tags"], config["description"] = c.VMs[id].Config["tags"], c.VMs[id].Config["description"]
		},
		func(c *pvetest.Cluster, config map[string]string) {
			config["description"] = c.VMs[id].Config["description"]
		},
		func(c *pvetest.Cluster, config map[string]string) { config["tags"] = c.VMs[id].Config["tags"] },
	}
	foreign := map[int]func(c *pvetest.Cluster, config map[string]string){}
	for n := 5101; len(foreign) < len(looks); n++ {
		if n != id && n != handleID(t, theirs) { // which are any of the range
			foreign[n] = looks[len(foreign)]
		}
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for n, edit := range foreign {
			edit(c, c.AddVM("pve", n, "foreign").Config)
			c.VMs[n].Running = true
			c.Pools[testPool].VMs[n] = true
		}
	})
	before := l.configs()
	for _, p := range []*Provisioner{p, l.provisioner()} {
		list, err := p.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" {
			t.Errorf("List (-want +got):\n%s", diff)
		}
		for n := range foreign {
			ref := provisioner.Ref{Sandbox: m.Sandbox, Handle: fmt.Sprint(n)}
			p.forget(id) // so that only the handle leads to a machine
			if _, err := p.Dial(t.Context(), ref); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Dial %d: %v", n, err)
			}
			if err := p.Relabel(t.Context(), ref, m.Papers); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Relabel %d: %v", n, err)
			}
			ref.Sandbox = "sb-never"
			if err := p.Destroy(t.Context(), ref); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Destroy %d: %v", n, err)
			}
		}
		again, err := p.Create(t.Context(), testSpec(1))
		if diff := cmp.Diff(m, again); diff != "" || err != nil {
			t.Errorf("Create again: %v\n%s", err, diff)
		}
	}
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("machines were touched (-before +after):\n%s", diff)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	delete(before, id)
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("Destroy touched others (-before +after):\n%s", diff)
	}
	if list, err := other.List(t.Context()); err != nil || len(list) != 1 || list[0].Ref != theirs.Ref {
		t.Errorf("the other installation lists %+v, %v", list, err)
	}
}

// A machine whose guard is gone is let go: each part of its proof counts.
func TestEveryProofIsNeeded(t *testing.T) {
	for name, edit := range map[string]func(c *pvetest.Cluster, vm *pvetest.VM){
		"tag":      func(_ *pvetest.Cluster, vm *pvetest.VM) { delete(vm.Config, "tags") },
		"papers":   func(_ *pvetest.Cluster, vm *pvetest.VM) { delete(vm.Config, "description") },
		"template": func(_ *pvetest.Cluster, vm *pvetest.VM) { vm.Config["template"] = "1" },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			m, err := l.provisioner().Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			l.srv.Edit(func(c *pvetest.Cluster) { edit(c, c.VMs[handleID(t, m)]) })
			before := l.configs()
			if err := l.provisioner().Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Destroy: %v", err)
			}
			if diff := cmp.Diff(before, l.configs()); diff != "" {
				t.Errorf("it was touched:\n%s", diff)
			}
		})
	}
	t.Run("range-or-pool", func(t *testing.T) {
		l := newLab(t, &pvetest.Server{})
		m, err := l.provisioner().Create(t.Context(), testSpec(1))
		if err != nil {
			t.Fatal(err)
		}
		p := l.provisioner()
		p.VMIDs, p.Pool = Range{6000, 6100}, "another"
		if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("outside of range and pool: %v", err)
		}
		p = l.provisioner()
		p.VMIDs = Range{6000, 6100}
		if err := p.Destroy(t.Context(), m.Ref); err != nil {
			t.Errorf("outside of the range, in the pool: %v", err)
		}
	})
}

func handleID(t *testing.T, m provisioner.Machine) int {
	t.Helper()
	h, err := parseHandle(m.Handle)
	if err != nil {
		t.Fatal(err)
	}
	return h.id
}

// Somebody else takes the VMID between the choice and the clone, at the last
// moment before the call or while the clone runs.
func TestLoserOfARaceTouchesNothing(t *testing.T) {
	for name, text := range map[string]string{
		"before": "", "during": "unable to create VM %d: config file already exists",
		"holds-the-lock": "can't lock file '/var/lock/qemu-server/lock-%d.conf' - got timeout",
	} {
		t.Run(name, func(t *testing.T) {
			srv := &pvetest.Server{}
			var mu sync.Mutex
			fail := ""
			srv.TaskFail = func(typ, _ string) string {
				mu.Lock()
				defer mu.Unlock()
				if typ != "qmclone" {
					return ""
				}
				text := fail
				fail = ""
				return text
			}
			l := newLab(t, srv)
			spec := testSpec(1)
			var lost []int
			spec.Intend = func(_ context.Context, recorded string) error {
				h, err := parseHandle(recorded)
				if err != nil || h.task != "" || len(lost) == 2 {
					return err
				}
				lost = append(lost, h.id)
				if text != "" {
					mu.Lock()
					fail = fmt.Sprintf(text, h.id)
					mu.Unlock()
					return nil
				}
				l.srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", h.id, "foreign") })
				return nil
			}
			p := l.provisioner()
			m, err := p.Create(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if len(lost) != 2 || handleID(t, m) == lost[0] || handleID(t, m) == lost[1] {
				t.Errorf("machine %s after losing %v", m.Handle, lost)
			}
			if n := l.counted()["DELETE "]; n != 0 {
				t.Errorf("%d deletes", n)
			}
		})
	}
}

// Installations that share a tight range all get what they ask for.
func TestInstallationsShareARange(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { c.Nodes[0].Memory = 1 << 40 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := map[string]string{}
	for i := range 3 {
		instance := fmt.Sprintf("inst-%d", i)
		p := l.open(instance, provisionertest.Key(t, byte(i)))
		p.VMIDs = Range{5000, 5059}
		for n := range 8 {
			wg.Go(func() {
				spec := testSpec(n)
				spec.Papers.Instance = instance
				m, err := p.Create(t.Context(), spec)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || owner[m.Handle] != "" {
					t.Errorf("%s: machine %q, which is also of %q: %v", instance, m.Handle, owner[m.Handle], err)
				}
				owner[m.Handle] = instance
			})
		}
	}
	wg.Wait()
	if n := len(maps.Clone(owner)); n != 24 {
		t.Errorf("%d machines, want 24", n)
	}
}
