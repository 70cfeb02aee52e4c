package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// makeOne makes a machine, and returns its ID too.
func makeOne(t *testing.T, p *Provisioner, n int) (provisioner.Machine, int) {
	t.Helper()
	m, err := p.Create(t.Context(), testSpec(n))
	if err != nil {
		t.Fatal(err)
	}
	return m, handleID(t, m)
}

// While a machine is being stopped its VMID goes to somebody else's.
func TestDestroyLooksAgainAfterTheStop(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST stop" {
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = "mine" })
		}
		return nil
	})
	if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("Destroy: %v", err)
	}
	if l.configs()[id]["description"] != "mine" {
		t.Error("it was destroyed")
	}
}

// A clone that a dead process began is awaited: it would else appear after
// everything was over.
func TestDestroyAwaitsAClone(t *testing.T) {
	l := newLab(t, &pvetest.Server{TaskTime: map[string]time.Duration{"qmclone": 300 * time.Millisecond}})
	spec := testSpec(1)
	ctx, die := context.WithCancel(t.Context())
	l.onCall(func(*http.Request) *pvetest.Fault {
		if ctx.Err() != nil {
			return &pvetest.Fault{Drop: true}
		}
		return nil
	})
	var recorded handle
	spec.Intend = func(_ context.Context, text string) (err error) {
		if recorded, err = parseHandle(text); recorded.task != "" {
			die()
		}
		return err
	}
	first := l.provisioner()
	first.undo = time.Millisecond
	if _, err := first.Create(ctx, spec); err == nil {
		t.Fatal("Create succeeds")
	}
	l.onCall(nil)
	p := l.provisioner()
	if err := p.Destroy(t.Context(), provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: recorded.String()}); err != nil {
		t.Error(err)
	}
	_, _ = p.Client.Wait(t.Context(), recorded.task) // however it ended
	l.wantNothingLeft(t)
}

// A node leaves the cluster while a clone runs on it, which must not keep its
// sandbox for ever.
func TestCloneOfANodeThatLeft(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.onCall(nil)
	ref := provisioner.Ref{Sandbox: "sb-1", Handle: "5001 UPID:gone:0000AAAA:00BBBBBB:6740AAAA:qmclone:9000:agentlab@pve!t1:"}
	if err := l.provisioner().Destroy(t.Context(), ref); err != nil || l.counted()["GET status"] > 0 {
		t.Errorf("Destroy: %v after %d looks at the task", err, l.counted()["GET status"])
	}
}

// A lost answer does not make one Destroy two, nor does somebody else who is
// faster, be it that we may see that the machine is gone or not.
func TestOneDestroySuffices(t *testing.T) {
	for _, call := range []string{"POST stop", "DELETE "} {
		for name, tt := range map[string]struct {
			fault  *pvetest.Fault
			sees   bool // that machines are gone, and not merely forbidden
			vanish bool
		}{
			"lost-before":    {fault: &pvetest.Fault{Drop: true}},
			"lost-after":     {fault: &pvetest.Fault{Drop: true, After: true}},
			"gone":           {vanish: true, sees: true},
			"gone-forbidden": {vanish: true},
		} {
			if call == "DELETE " && name == "lost-before" {
				continue // then it is still there, and may have become another's
			}
			t.Run(callWord(call)+"-"+name, func(t *testing.T) {
				l := newLab(t, &pvetest.Server{})
				if tt.sees {
					l.srv.Edit(func(c *pvetest.Cluster) { grant(c, "/vms", "VM.Audit", "VM.PowerMgmt", "VM.Allocate") })
				}
				p := l.provisioner()
				m, id := makeOne(t, p, 1)
				done := false
				l.onCall(func(r *http.Request) *pvetest.Fault {
					if done || callName(r) != call {
						return nil
					}
					done = true
					if tt.vanish {
						l.srv.Edit(func(c *pvetest.Cluster) {
							delete(c.VMs, id)
							delete(c.Pools[testPool].VMs, id)
						})
					}
					return tt.fault
				})
				if err := p.Destroy(t.Context(), m.Ref); err != nil || !done {
					t.Errorf("Destroy: %v", err)
				}
			})
		}
	}
}

func callWord(call string) string {
	if call == "DELETE " {
		return "delete"
	}
	return "stop"
}

// What an earlier attempt left was let go of since it was listed. It stays as it
// is, and the sandbox gets another machine.
func TestCreateBesideWhatIsNoLongerOurs(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	_, id := makeOne(t, p, 1)
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = "mine" })
	if _, again := makeOne(t, p, 1); again == id {
		t.Errorf("VM %d is adopted", id)
	}
	if l.configs()[id]["running"] != "true" {
		t.Errorf("VM %d was touched", id)
	}
}

// What was known of a machine ends with it, whatever an older look at the
// cluster shows.
func TestDestroyedMachinesAreForgotten(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, _ := makeOne(t, p, 1)
	before, err := p.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.ways.settle(m.Sandbox)
	p.ways.setIP(m.Sandbox, "192.0.2.1")
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	if found, _, err := p.survey(t.Context(), before, 0); len(found) > 0 || err != nil {
		t.Errorf("known: %+v, %v", found, err)
	}
	if p.ways.settled(m.Sandbox) || p.ways.ip(m.Sandbox) != "" {
		t.Error("how its guest was reached is still known")
	}
}

// Whatever bears the sandbox's papers goes with it, such as a clone whose
// answer was lost.
func TestDestroyTakesTwinsToo(t *testing.T) {
	l, _, m := withTwin(t, 5990)
	if err := l.provisioner().Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// withTwin makes a machine and a draft of it under the given VMID, which is seen
// when the sandbox lives: a clone whose answer was lost took effect late.
func withTwin(t *testing.T, twin int) (l *lab, p *Provisioner, own provisioner.Machine) {
	l = newLab(t, &pvetest.Server{Staleness: -1})
	p = l.provisioner()
	own, _ = makeOne(t, p, 1)
	text, err := p.seal(twin, draft, own.Papers)
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		vm := c.AddVM("pve", twin, "twin")
		vm.Config["description"] = text
		vm.Config["scsi0"] = fmt.Sprintf("local:%[1]d/vm-%[1]d-disk-0.qcow2,size=2G", twin)
		c.Volumes[fmt.Sprintf("local:%[1]d/vm-%[1]d-disk-0.qcow2", twin)] = &pvetest.Volume{Storage: "local", Node: "pve", VMID: twin, Size: 2 << 30, Format: "qcow2", Content: "images"}
		c.Pools[testPool].VMs[twin] = true
	})
	return l, p, own
}

// A second machine of a sandbox goes as soon as it is listed, and leaves the
// sandbox its own and how that is reached.
func TestTrim(t *testing.T) {
	l, p, own := withTwin(t, 5990)
	p.ways.settle(own.Sandbox)
	var spare provisioner.Ref
	list, err := p.List(t.Context())
	for _, m := range list {
		if m.Spare {
			spare = m.Ref
		}
	}
	if err != nil || spare.Handle != "5990" || spare.Sandbox != own.Sandbox {
		t.Fatalf("List: %+v, %v", list, err)
	}
	for range 2 {
		if err := p.Trim(t.Context(), spare); err != nil {
			t.Fatal(err)
		}
	}
	list, err = p.List(t.Context())
	if diff := cmp.Diff([]provisioner.Machine{own}, list); diff != "" || err != nil || !p.ways.settled(own.Sandbox) {
		t.Errorf("List afterwards: %v\n%s", err, diff)
	}
	if err := p.Destroy(t.Context(), own.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// What is not spare stays: a sandbox's own machine, its only one though half
// made, and one that becomes another's while it is being removed.
func TestTrimSpares(t *testing.T) {
	for name, tt := range map[string]struct {
		handle string // empty is the own machine's
		spoil  func(l *lab, own int)
	}{
		"own":  {"", func(*lab, int) {}},
		"only": {"5990", func(l *lab, own int) { l.srv.Edit(func(c *pvetest.Cluster) { delete(c.VMs, own) }) }},
		"papers": {"5990", func(l *lab, _ int) {
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[5990].Config["description"] = "mine" })
		}},
		"papers-later": {"5990", func(l *lab, _ int) {
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) == "POST stop" {
					l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[5990].Config["description"] = "mine" })
				}
				return nil
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, _, own := withTwin(t, 5990)
			tt.spoil(l, handleID(t, own))
			n := len(l.configs())
			p := l.provisioner()
			if _, err := p.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			ref := own.Ref
			if tt.handle != "" {
				ref.Handle = tt.handle
			}
			err := p.Trim(t.Context(), ref)
			if !errors.Is(err, provisioner.ErrNotOurs) || len(l.configs()) != n {
				t.Errorf("Trim: %v; %d machines of %d are left", err, len(l.configs()), n)
			}
		})
	}
}

// Who can't look at the cluster destroys what is named, and says that there may
// be more.
func TestDestroyWithoutALook(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	p.surveyed = nil
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "GET resources" {
			return &pvetest.Fault{Status: 500, Reason: "no"}
		}
		return nil
	})
	if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) || l.configs()[id] != nil {
		t.Errorf("Destroy: %v; the machine: %v", err, l.configs()[id])
	}
}

// A clone fails, and its VMID is another's at once: that one stays, and the
// next clone is made.
func TestFailedCloneLeavesOthersAlone(t *testing.T) {
	srv := &pvetest.Server{}
	l := newLab(t, srv)
	var mu sync.Mutex
	failed := false
	srv.TaskFail = func(typ, _ string) string {
		mu.Lock()
		defer mu.Unlock()
		if failed || typ != "qmclone" {
			return ""
		}
		failed = true
		return "clone failed: copy failed"
	}
	spec, lost := testSpec(1), 0
	spec.Intend = func(_ context.Context, recorded string) error {
		h, err := parseHandle(recorded)
		if lost == 0 {
			lost = h.id
		}
		return err
	}
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "GET config" {
			l.srv.Edit(func(c *pvetest.Cluster) {
				if vm := c.VMs[lost]; vm != nil {
					vm.Config["description"] = "mine"
				}
			})
		}
		return nil
	})
	m, err := l.provisioner().Create(t.Context(), spec)
	if err != nil || handleID(t, m) == lost || l.configs()[lost] == nil {
		t.Errorf("Create: %s, %v after losing %d", m.Handle, err, lost)
	}
}

// An ID that was found in use by a machine that is not seen rests for a while.
func TestTakenIDsRest(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 5000, "hidden") })
	p := l.provisioner()
	p.VMIDs = Range{5000, 5002}
	l.onCall(nil)
	for n := range 2 {
		makeOne(t, p, n)
	}
	if _, err := p.Create(t.Context(), testSpec(2)); !errors.Is(err, provisioner.ErrExhausted) || l.counted()["POST clone"] > 3 {
		t.Errorf("Create: %v after %d clones", err, l.counted()["POST clone"])
	}
}
