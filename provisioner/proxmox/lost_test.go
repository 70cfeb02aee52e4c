package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// The answer of a clone is lost after it took effect. However long it takes, and
// on whichever node it ends, there is one machine.
func TestLostAnswerOfASlowClone(t *testing.T) {
	for name, elsewhere := range map[string]bool{"here": false, "to-another-node": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{TaskTime: map[string]time.Duration{"qmclone": 500 * time.Millisecond}})
			l.srv.Edit(func(c *pvetest.Cluster) {
				c.Storages[0].Shared = true
				c.AddNode("pve2")
			})
			p := l.provisioner()
			p.grace = time.Millisecond
			p.Nodes = []string{"pve"}
			if elsewhere {
				p.Nodes = []string{"pve2"}
			}
			l.onCall(once("POST clone", &pvetest.Fault{Drop: true, After: true}))
			m, err := p.Create(t.Context(), testSpec(1))
			if err != nil || l.counted()["POST clone"] != 1 || l.nodes()[p.Nodes[0]] != 1 {
				t.Errorf("Create: %+v, %v after %d clones; machines on %v", m, err, l.counted()["POST clone"], l.nodes())
			}
		})
	}
}

// As long as it can't be found out what became of a clone, no second one is made.
func TestUnknownEndOfAClone(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.addNodes(1)
	p := l.provisioner()
	p.undo = 100 * time.Millisecond
	cloned := false
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST clone" {
			cloned = true
			return &pvetest.Fault{Drop: true, After: true}
		}
		if cloned && strings.Contains(r.URL.Path, "/nodes/") {
			return &pvetest.Fault{Status: 595, Reason: "No route to host"}
		}
		return nil
	})
	if _, err := p.Create(t.Context(), testSpec(1)); !errors.Is(err, errUnknown) || l.counted()["POST clone"] != 1 {
		t.Errorf("Create: %v after %d clones", err, l.counted()["POST clone"])
	}
	l.onCall(nil)
	if m, err := l.provisioner().Create(t.Context(), testSpec(1)); err != nil || len(l.nodes()) != 1 {
		t.Errorf("Create later: %+v, %v; machines on %v", m, err, l.nodes())
	}
}

// Most of the range belongs to machines that the token can't see: a free VMID is
// found, or after few calls an error says what to do.
func TestRangeOfHiddenMachines(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	free := map[int]bool{}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id := testRange.First; id <= testRange.Last; id++ {
			if free[id] = id%5 == 0; !free[id] {
				c.AddVM("pve", id, fmt.Sprintf("hidden-%d", id))
			}
		}
	})
	p := l.provisioner()
	for n := range 5 {
		if m, err := p.Create(t.Context(), testSpec(n)); err != nil || !free[handleID(t, m)] {
			t.Errorf("Create: %+v, %v", m, err)
		}
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id := range free {
			if c.VMs[id] == nil {
				c.AddVM("pve", id, "hidden")
			}
		}
	})
	p = l.provisioner()
	l.onCall(nil)
	_, err := p.Create(t.Context(), testSpec(9))
	calls := l.counted()
	if !errors.Is(err, provisioner.ErrExhausted) || !strings.Contains(err.Error(), "set proxmox_vmid_range") || calls["POST clone"] > 1 || calls["GET nextid"] > searches {
		t.Errorf("Create: %v after %v", err, calls)
	}
}

// The memory of a machine that could not be made is free at once.
func TestFailedCreateTakesNoMemory(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		grant(c, "/nodes", "Sys.Audit")
		c.Nodes[0].Memory = 2 << 30 // of which 1 GiB is in use
	})
	p := l.provisioner()
	spec := testSpec(1)
	spec.MemoryMB = 800
	for range 2 {
		l.onCall(func(r *http.Request) *pvetest.Fault {
			if callName(r) == "POST start" {
				return &pvetest.Fault{Status: 500, Reason: "got no worker upid"}
			}
			return nil
		})
		if _, err := p.Create(t.Context(), spec); err == nil || errors.Is(err, provisioner.ErrExhausted) {
			t.Errorf("Create: %v", err)
		}
	}
	l.onCall(nil)
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Errorf("Create: %v", err)
	}
	spec = testSpec(2)
	spec.MemoryMB = 800
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provisioner.ErrExhausted) {
		t.Errorf("Create beside it: %v", err)
	}
}

// A storage that has nothing of ours does not answer. Machines are destroyed all
// the same. If it is the machine's own, it stays until the storage is back.
func TestDestroyWithAStorageAway(t *testing.T) {
	for _, of := range []stage{whole, draft} {
		t.Run(string(of), func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			p, ref := l.provisioner(), provisioner.Ref{Sandbox: testSpec(1).Papers.Sandbox}
			var id int
			if of == whole {
				var m provisioner.Machine
				m, id = makeOne(t, p, 1)
				ref = m.Ref
			} else {
				id = l.draft(testSpec(1)).id
			}
			away := func(storage string, is bool) {
				l.srv.Edit(func(c *pvetest.Cluster) {
					for _, st := range c.Storages {
						if st.ID == storage {
							st.Away = is
						}
					}
				})
			}
			l.srv.Edit(func(c *pvetest.Cluster) {
				c.Storages = append(c.Storages, &pvetest.Storage{ID: "nfs1", Content: "images", Shared: true, Size: 1 << 40})
			})
			stray := l.park("local", id)
			away("local", true)
			if err := p.Destroy(t.Context(), ref); !errors.Is(err, provisioner.ErrUnavailable) || l.configs()[id] == nil {
				t.Errorf("Destroy with its own storage away: %v", err)
			}
			away("local", false)
			away("nfs1", true)
			if err := p.Destroy(t.Context(), ref); err != nil {
				t.Errorf("Destroy with another's storage away: %v", err)
			}
			l.wantParked(t, stray, of == whole) // of a clone that was cut short it may be its own
			l.wantNothingLeft(t)
		})
	}
}

// A disk that somebody has kept of a machine with the same ID is not ours,
// whether we may see its storage or not.
func TestDestroyLeavesParkedDisks(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.Storages = append(c.Storages, &pvetest.Storage{ID: "private", Content: "images", Size: 1 << 40})
	})
	p := l.provisioner()
	p.VMIDs = Range{5007, 5007}
	parked := []string{l.park("private", 5007), l.park("local", 5007)}
	m, _ := makeOne(t, p, 1)
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	for _, disk := range parked {
		l.wantParked(t, disk, true)
	}
	l.wantNothingLeft(t)
}

// park leaves a disk on a storage that bears the ID of a VM and is in no config.
func (l *lab) park(storage string, id int) (volume string) {
	volume = fmt.Sprintf("%s:%d/vm-%[2]d-disk-7.qcow2", storage, id)
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.Volumes[volume] = &pvetest.Volume{ID: volume, Storage: storage, Node: "pve", VMID: id, Size: 1 << 30, Format: "qcow2", Content: "images"}
	})
	return volume
}

// wantParked looks whether such a disk is still there, and takes it away.
func (l *lab) wantParked(t *testing.T, volume string, want bool) {
	t.Helper()
	l.srv.Edit(func(c *pvetest.Cluster) {
		if got := c.Volumes[volume] != nil; got != want {
			t.Errorf("%s is there: %v, want %v", volume, got, want)
		}
		delete(c.Volumes, volume)
	})
}

// What is missing is named, with what mends it.
func TestCreateSaysWhatIsMissing(t *testing.T) {
	for name, tt := range map[string]struct {
		root string
		edit func(*pvetest.Cluster)
		says []string
	}{
		"storage": {"debian,full=1,storage=fast", nil, []string{"'fast'", "as storage in the profile"}},
		"forbidden-storage": {"debian,full=1,storage=other", func(c *pvetest.Cluster) {
			c.Storages = append(c.Storages, &pvetest.Storage{ID: "other", Content: "images", Size: 1 << 40})
		}, []string{"lacks Datastore.AllocateSpace on /storage/other"}},
		"snippet": {"", func(c *pvetest.Cluster) { c.VMs[9000].Config["cicustom"] = "user=local:snippets/u.yaml" },
			[]string{"local:snippets/u.yaml", "--delete cicustom"}},
		"image": {"", func(c *pvetest.Cluster) { c.VMs[9000].Config["ide0"] = "local:iso/tools.iso,media=cdrom" },
			[]string{"local:iso/tools.iso", "take it out of the template"}},
		"bridge": {"", func(c *pvetest.Cluster) {
			c.VMs[9000].Config["net0"] = "virtio=BC:24:11:00:00:01,bridge=vmbr7"
			grant(c, "/sdn/zones/localnetwork/vmbr7", "SDN.Use")
		}, []string{"bridge 'vmbr7' does not exist", "set proxmox_bridge"}},
		"tags": {"", func(c *pvetest.Cluster) { c.Options["user-tag-access"] = "user-allow=none" },
			[]string{"does not let the token give the tag agentlab; agentlab doctor prints"}},
		"pool": {"", func(c *pvetest.Cluster) { delete(c.Pools, testPool) }, []string{"pool 'agentlab' does not exist", "agentlab proxmox setup"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			if tt.edit != nil {
				l.srv.Edit(tt.edit)
			}
			spec := testSpec(1)
			spec.Root, spec.Network = tt.root, "internet"
			_, err := l.provisioner().Create(t.Context(), spec)
			if err != nil && strings.Contains(err.Error(), "give the token Sys.Modify") {
				t.Errorf("Create advises to let the token change the datacenter: %v", err)
			}
			for _, say := range tt.says {
				if err == nil || !strings.Contains(err.Error(), say) {
					t.Errorf("Create: %v\nwhich lacks %q", err, say)
				}
			}
			if name == "pool" {
				return // nothing of it can be seen now
			}
			l.wantNothingLeft(t)
		})
	}
}

// We die after a clone has begun and before its task was recorded. However long
// it takes, the next process makes no second machine.
func TestCrashBeforeTheTaskIsRecorded(t *testing.T) {
	l := newLab(t, &pvetest.Server{TaskTime: map[string]time.Duration{"qmclone": 500 * time.Millisecond}})
	var recorded string
	var dead atomic.Bool
	l.onCall(func(*http.Request) *pvetest.Fault {
		if !dead.Load() {
			return nil
		}
		return &pvetest.Fault{Drop: true} // the dead undo nothing
	})
	spec := testSpec(1)
	spec.Intend = func(_ context.Context, handle string) error {
		if recorded != "" {
			dead.Store(true)
			return errors.New("dead")
		}
		recorded = handle
		return nil
	}
	p := l.provisioner()
	p.undo = time.Millisecond
	if _, err := p.Create(t.Context(), spec); err == nil {
		t.Fatal("Create succeeds")
	}
	l.onCall(nil)
	spec.Handle, spec.Intend = recorded, nil
	m, err := l.provisioner().Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing but what we see is there, also when all clones have ended.
	l.srv.Close()
	if on := l.nodes(); on["pve"] != 1 {
		t.Errorf("Create: %+v; machines on %v", m, on)
	}
}

// A machine that an earlier process was about to undo still runs, and is being
// stopped: it is none to go on with.
func TestNoMachineThatIsBeingStopped(t *testing.T) {
	l := newLab(t, &pvetest.Server{TaskTime: map[string]time.Duration{"qmstop": time.Second}})
	p := l.provisioner()
	left, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	vm := pve.VM{Node: "pve", ID: handleID(t, left)}
	stop, err := p.Client.Stop(t.Context(), vm, pve.StopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := testSpec(1)
	spec.Handle = left.Handle
	m, err := l.provisioner().Create(t.Context(), spec)
	if _, werr := p.Client.Wait(t.Context(), stop); err != nil || werr != nil {
		t.Fatalf("Create: %v, stop: %v", err, werr)
	}
	if s, err := p.Client.Status(t.Context(), pve.VM{Node: "pve", ID: handleID(t, m)}); err != nil || !s.Running() {
		t.Errorf("VM %s is given as what runs: %+v, %v", m.Handle, s, err)
	}
}
