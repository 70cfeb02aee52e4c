package proxmox

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// A machine that is locked or was given protection is not touched, and what
// mends that is said. Then it can be destroyed.
func TestDestroyWaitsForOthers(t *testing.T) {
	for name, tt := range map[string]struct{ option, value, says string }{
		"backup":    {"lock", "backup", "qm unlock 5"},
		"snapshot":  {"lock", "snapshot", "qm unlock 5"},
		"migrating": {"lock", "migrate", "qm unlock 5"},
		"protected": {"protection", "1", "--protection 0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			p := l.provisioner()
			m, err := p.Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			id := handleID(t, m)
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config[tt.option] = tt.value })
			before := l.configs()
			if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Destroy: %v", err)
			}
			if diff := cmp.Diff(before, l.configs()); diff != "" {
				t.Errorf("it was touched:\n%s", diff)
			}
			l.srv.Edit(func(c *pvetest.Cluster) { delete(c.VMs[id].Config, tt.option) })
			if err := p.Destroy(t.Context(), m.Ref); err != nil {
				t.Error(err)
			}
			l.wantNothingLeft(t)
		})
	}
}

// A clone that was cut short bears no papers, so that it is not ours to remove: who
// may is told how.
func TestDestroyOfACloneCutShort(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.VMs[id].Config["lock"] = "clone"
		delete(c.VMs[id].Config, "description")
	})
	before := l.configs()
	says := fmt.Sprintf("qm unlock %[1]d && qm destroy %[1]d ", id)
	if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), says) {
		t.Errorf("Destroy: %v", err)
	}
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("it was touched:\n%s", diff)
	}
}

// Whatever state somebody or an error has put a machine into, it can go.
func TestDestroyInAnyState(t *testing.T) {
	for name, edit := range map[string]func(*pvetest.VM){
		"paused":     func(vm *pvetest.VM) { vm.QMPStatus = "paused" },
		"prelaunch":  func(vm *pvetest.VM) { vm.QMPStatus = "prelaunch" },
		"io-error":   func(vm *pvetest.VM) { vm.QMPStatus = "io-error" },
		"hibernated": func(vm *pvetest.VM) { vm.Running, vm.QMPStatus, vm.Config["lock"] = false, "", "suspended" },
		"snapshots": func(vm *pvetest.VM) {
			vm.Snapshots, vm.Parent = []*pvetest.Snapshot{{Name: "by-hand", Config: map[string]string{"memory": "16"}}}, "by-hand"
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{Staleness: -1})
			p := l.provisioner()
			m, id := makeOne(t, p, 1)
			l.srv.Edit(func(c *pvetest.Cluster) { edit(c.VMs[id]) })
			if list, err := l.provisioner().List(t.Context()); err != nil || len(list) != 1 || list[0].Running != (name != "hibernated") {
				t.Errorf("List: %+v, %v", list, err)
			}
			if err := p.Destroy(t.Context(), m.Ref); err != nil {
				t.Error(err)
			}
			l.wantNothingLeft(t)
		})
	}
}

// A disk that can't be removed is but a warning of the task: the machine is gone,
// and what is left of it is told with what removes it.
func TestDestroyTellsWhatIsLeft(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	var said bytes.Buffer
	p := l.provisioner()
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	m, id := makeOne(t, p, 1)
	l.srv.Edit(func(c *pvetest.Cluster) {
		for _, v := range c.Volumes {
			v.Busy = v.VMID == id
		}
	})
	if err := p.Destroy(t.Context(), m.Ref); err != nil || l.configs()[id] != nil {
		t.Errorf("Destroy: %v", err)
	}
	if log := said.String(); !strings.Contains(log, fmt.Sprintf("Could not remove disk 'local:9000/base-9000-disk-0.qcow2/%d/vm-%[1]d-disk-0.qcow2', check manually", id)) || !strings.Contains(log, "pvesm free") {
		t.Errorf("log %s", log)
	}
}

// A machine migrates before a Destroy, or in its middle.
func TestDestroyFollowsAMigration(t *testing.T) {
	for name, at := range map[string]string{"before": "GET config", "after-the-stop": "DELETE "} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			p := l.provisioner()
			m, err := p.Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			l.addNodes(1)
			moved := false
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) == at && !moved {
					moved = true
					l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[handleID(t, m)].Node = "pve2" })
				}
				return nil
			})
			if err := p.Destroy(t.Context(), m.Ref); err != nil {
				if err := p.Destroy(t.Context(), m.Ref); err != nil {
					t.Error(err)
				}
			}
			if left := l.leftovers(); len(left) > 0 || !moved {
				t.Errorf("moved: %v; left over: %v", moved, left)
			}
		})
	}
}

// A machine that migrated, whether its papers were read before or not, is listed
// and reached where it is now.
func TestAMigratedMachineIsFound(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	l.addNodes(1)
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Node = "pve2" })
	m.Place = "pve2"
	for _, p := range []*Provisioner{p, l.provisioner()} {
		p.Channel = func(string) string { return channelAgent }
		conn, err := p.Dial(t.Context(), m.Ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		list, err := p.List(t.Context())
		if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
			t.Errorf("List: %v\n%s", err, diff)
		}
	}
	m.Papers.End = m.Papers.End.Add(time.Minute)
	if err := p.Relabel(t.Context(), m.Ref, m.Papers); err != nil {
		t.Errorf("Relabel: %v", err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	l.wantNothingLeft(t)
}

// HA stops a machine some time after the task that was to stop it has ended.
func TestDestroyOfAMachineThatIsStillRunning(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	p.grace = time.Millisecond
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	deletes := 0
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) != "DELETE " {
			return nil
		}
		if deletes++; deletes > 3 {
			return nil
		}
		return &pvetest.Fault{Status: 500, Reason: "VM " + m.Handle + " is running - destroy failed"}
	})
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// A shutdown that somebody else of us waits for holds the machine's lock; the
// guest ignores it.
func TestDestroyOverrulesAShutdown(t *testing.T) {
	l := newLab(t, &pvetest.Server{AgentDelay: func(int) time.Duration { return -1 }})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	task, err := p.Client.Shutdown(t.Context(), pve.VM{Node: "pve", ID: handleID(t, m)}, 24*3600, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	if _, err := p.Client.Wait(t.Context(), task); !errors.Is(err, pve.Aborted) {
		t.Errorf("the shutdown: %v", err)
	}
	l.wantNothingLeft(t)
}

// A clone has the protection of its template, and must go all the same if it
// never becomes a machine.
func TestProtectedTemplateLeavesNothing(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[9000].Config["protection"] = "1" })
	changes := 0
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) != "PUT config" {
			return nil
		}
		if changes++; changes > 1 {
			return nil
		}
		return &pvetest.Fault{Status: 400, Reason: "Parameter verification failed."}
	})
	if _, err := l.provisioner().Create(t.Context(), testSpec(1)); err == nil {
		t.Error("Create succeeds")
	}
	l.wantNothingLeft(t)
}
