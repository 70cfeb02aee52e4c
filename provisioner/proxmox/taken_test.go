package proxmox

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// A record says that a VMID is its sandbox's, and meanwhile that is another's, who
// has started a machine there: whatever is asked of the sandbox, that machine is
// looked at and nothing else, by who has known the first one and by who has not.
func TestVMIDOfTheRecordIsAnothers(t *testing.T) {
	asks := map[string]func(p *Provisioner, m provisioner.Machine) error{
		"destroy": func(p *Provisioner, m provisioner.Machine) error { return p.Destroy(t.Context(), m.Ref) },
		"trim":    func(p *Provisioner, m provisioner.Machine) error { return p.Trim(t.Context(), m.Ref) },
		"relabel": func(p *Provisioner, m provisioner.Machine) error { return p.Relabel(t.Context(), m.Ref, m.Papers) },
		"re-key": func(p *Provisioner, m provisioner.Machine) error {
			_, err := p.Rekey(t.Context(), m.Ref, claimed(), nil)
			return err
		},
		"dial": func(p *Provisioner, m provisioner.Machine) error {
			_, err := p.Dial(t.Context(), m.Ref)
			return err
		},
		"remove": func(p *Provisioner, m provisioner.Machine) error {
			return p.remove(t.Context(), pve.VM{Node: "pve", ID: handleID(t, m)}, m.Sandbox)
		},
	}
	for whose, description := range map[string]func(l *lab, id int) string{
		"nobody we know": func(*lab, int) string { return "mine" },
		"another installation": func(l *lab, id int) string {
			return sealed(l, l.open("inst-2", provisionertest.Key(l.t, 2)), id, "inst-2")
		},
		"another sandbox": func(l *lab, id int) string { return sealed(l, l.provisioner(), id, testInstance) },
	} {
		t.Run(whose, func(t *testing.T) {
			for what, ask := range asks {
				l := newLab(t, &pvetest.Server{Staleness: -1})
				known := l.provisioner()
				m, id := makeOne(t, known, 1)
				text := description(l, id)
				l.srv.Edit(func(c *pvetest.Cluster) {
					delete(c.VMs, id)
					vm := c.AddVM("pve", id, "foreign")
					vm.Running, vm.Config["description"], vm.Config["tags"] = true, text, tag
					c.Pools[testPool].VMs[id] = true
				})
				before := l.configs()[id]
				for _, p := range []*Provisioner{known, l.provisioner()} {
					touched := l.touches(id)
					if err := ask(p, m); !errors.Is(err, provisioner.ErrNotOurs) {
						t.Errorf("%s: %v", what, err)
					}
					l.onCall(nil)
					if diff := cmp.Diff(before, l.configs()[id]); diff != "" || len(*touched) > 0 {
						t.Errorf("%s: it was asked for %q (-before +after):\n%s", what, *touched, diff)
					}
				}
			}
		})
	}
}

// Who has just seen that a machine is ours, and is too late: what is done by the
// guest's agent, which is asked whose it is, leaves another's guest as it is.
func TestGuestIsAnothersByNow(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	p.PowerOff = time.Hour
	m, conn := l.ready(p)
	defer conn.Close()
	was, err := p.find(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the switch is armed", func() bool { return !p.arms(m.Sandbox) })
	dir := l.lose(p, was.vm)
	l.takeOver(was.vm.ID)
	before := tree(t, dir)
	for what, ask := range map[string]func() error{
		"power off by its switch": func() error { return p.armNow(t.Context(), was.vm, was.papers) },
		"re-key": func() error {
			_, err := p.rekeyGuest(t.Context(), was, m.Ref, claimed())
			return err
		},
		"exec": func() error {
			late, err := p.enterByAgent(was, m.Ref, time.Now()) // when the machine was looked at
			if err != nil {
				return err
			}
			defer late.Close()
			_, err = says(t, late, "touch /home/touched")
			return err
		},
	} {
		if err := ask(); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("left in another's guest (-before +after):\n%s", diff)
	}
}

// sealed returns papers of a sandbox that is not the test's, for that machine.
func sealed(l *lab, p *Provisioner, id int, instance string) string {
	papers := testSpec(2).Papers
	papers.Instance = instance
	text, err := p.seal(id, whole, papers)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// touches returns, once onCall is called again, what was asked of a machine but looks.
func (l *lab) touches(id int) *[]string {
	of := regexp.MustCompile(fmt.Sprintf(`/qemu/%d(/|$)`, id))
	var touched []string
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if r.Method != http.MethodGet && of.MatchString(r.URL.Path) && !slices.Contains(touched, r.URL.Path) {
			touched = append(touched, r.Method+" "+r.URL.Path)
		}
		return nil
	})
	return &touched
}

// A sandbox whose recorded machine is another's by now gets a machine of its own.
func TestCreateWhereVMIDIsAnothers(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	_, id := makeOne(t, l.provisioner(), 1)
	l.srv.Edit(func(c *pvetest.Cluster) {
		delete(c.VMs, id)
		c.AddVM("pve", id, "foreign").Running = true
		c.Pools[testPool].VMs[id] = true
	})
	before := l.configs()[id]
	touched := l.touches(id)
	spec := testSpec(1)
	spec.Handle = handle{id: id}.String()
	m, err := l.provisioner().Create(t.Context(), spec)
	l.onCall(nil)
	if err != nil || handleID(t, m) == id {
		t.Errorf("Create: %s, %v", m.Handle, err)
	}
	if diff := cmp.Diff(before, l.configs()[id]); diff != "" || len(*touched) > 0 {
		t.Errorf("it was asked for %q (-before +after):\n%s", *touched, diff)
	}
}
