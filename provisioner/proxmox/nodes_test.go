package proxmox

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// twoNodes has a machine on each of two nodes, and the second's entry in the
// cluster, which changes for it.
func twoNodes(t *testing.T, srv *pvetest.Server) (l *lab, first, second provisioner.Machine) {
	l = newLab(t, srv)
	l.addNodes(1)
	p := l.provisioner()
	p.Nodes = []string{"pve"}
	first, _ = makeOne(t, p, 1)
	p = l.provisioner()
	p.Nodes = []string{"pve2"}
	second, _ = makeOne(t, p, 2)
	return l, first, second
}

func (l *lab) node(name string, edit func(*pvetest.Node)) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		for _, n := range c.Nodes {
			if n.Name == name {
				edit(n)
			}
		}
	})
}

var byHandle = cmpopts.SortSlices(func(a, b provisioner.Machine) bool { return a.Handle < b.Handle })

// A node hangs or is down. What is on the other is listed, destroyed and made
// all the same, also by who never saw the first, and what is there is not taken
// for gone, nor made a second time.
func TestANodeDoesNotAnswer(t *testing.T) {
	for name, edit := range map[string]func(*pvetest.Node){
		"down": func(n *pvetest.Node) { n.Down = true },
		"hung": func(n *pvetest.Node) { n.Hung = true },
	} {
		t.Run(name, func(t *testing.T) {
			l, first, second := twoNodes(t, &pvetest.Server{Staleness: -1})
			knows := l.provisioner()
			if list, err := knows.List(t.Context()); err != nil || len(list) != 2 {
				t.Fatalf("List: %v, %v", list, err)
			}
			l.node("pve2", edit)
			fresh := l.provisioner()
			for p, want := range map[*Provisioner][]provisioner.Machine{
				knows: {first, second},
				fresh: {first, {Ref: provisioner.Ref{Handle: second.Handle}, Unread: true}},
			} {
				p.init()
				p.nodeTime = 500 * time.Millisecond // the node that does answer may be slow, too
				p.forget(handleID(t, first))        // so that one is to be read
				list, err := p.List(t.Context())
				if diff := cmp.Diff(want, list, byHandle); diff != "" || err != nil {
					t.Errorf("List: %v\n%s", err, diff)
				}
			}
			if m, err := fresh.Create(t.Context(), testSpec(3)); err != nil || l.nodes()["pve"] != 2 {
				t.Errorf("Create: %+v, %v; machines on %v", m, err, l.nodes())
			}
			again := testSpec(2)
			again.Handle = second.Handle
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if m, err := fresh.Create(ctx, again); err == nil {
				t.Errorf("a second machine is made: %+v", m)
			}
			if err := fresh.Destroy(t.Context(), first.Ref); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
}

// A machine that was switched off is not taken for running because its node is silent,
// so that nobody waits for its guest at each look.
func TestSilentNodeSwitchesNothingOn(t *testing.T) {
	l, first, second := twoNodes(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	if err := p.Stop(t.Context(), second.Ref); err != nil {
		t.Fatal(err)
	}
	second.Running = false
	if _, err := p.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.node("pve2", func(n *pvetest.Node) { n.Down = true })
	for range 3 {
		list, err := p.List(t.Context())
		want := []provisioner.Machine{first, second}
		if diff := cmp.Diff(want, list, byHandle, cmpopts.IgnoreFields(provisioner.Machine{}, "Papers")); diff != "" || err != nil {
			t.Errorf("List: %v\n%s", err, diff)
		}
	}
}

// The statistics daemon of a node hangs, so that the cluster knows neither
// names nor states of what is there. Nothing there is away.
func TestANodeIsMute(t *testing.T) {
	l, first, second := twoNodes(t, &pvetest.Server{Staleness: -1})
	knows := l.provisioner()
	knows.Nodes = []string{"pve2"}
	third, _ := makeOne(t, knows, 3)
	task, err := knows.Client.Stop(t.Context(), pve.VM{Node: "pve2", ID: handleID(t, third)}, pve.StopOptions{})
	if knows.await(t.Context(), task, err) != nil {
		t.Fatal("not stopped")
	}
	third.Running = false
	l.node("pve2", func(n *pvetest.Node) { n.Mute = true })
	for _, p := range []*Provisioner{knows, l.provisioner()} {
		list, err := p.List(t.Context())
		if diff := cmp.Diff([]provisioner.Machine{first, second, third}, list, byHandle); diff != "" || err != nil {
			t.Errorf("List: %v\n%s", err, diff)
		}
	}
	if _, err := knows.Create(t.Context(), testSpec(4)); err != nil || l.nodes()["pve2"] != 3 {
		t.Errorf("Create there: %v; machines on %v", err, l.nodes())
	}
	fresh := l.provisioner()
	fresh.Template = "debian"
	l.node("pve", func(n *pvetest.Node) { n.Mute = true })
	if _, err := fresh.Create(t.Context(), testSpec(5)); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "systemctl restart pvestatd") {
		t.Errorf("Create of a template whose name is unknown: %v", err)
	}
	fresh.Template = "9001"
	if m, err := fresh.Create(t.Context(), testSpec(5)); err != nil {
		t.Errorf("Create of a template by its VMID: %+v, %v", m, err)
	}
	for _, m := range []provisioner.Machine{first, second, third} {
		if err := fresh.Destroy(t.Context(), m.Ref); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
}

// What runs on a mute node is asked of it in one call, however many there are.
func TestAMuteNodeIsAskedOnce(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	for n := range reads + 2 {
		makeOne(t, p, n)
	}
	if _, err := p.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.node("pve", func(n *pvetest.Node) { n.Mute = true })
	l.onCall(nil)
	list, err := p.List(t.Context())
	if err != nil || len(list) != reads+2 {
		t.Fatalf("List: %v, %v", list, err)
	}
	for _, m := range list {
		if !m.Running {
			t.Errorf("%s does not run", m.Handle)
		}
	}
	if calls := l.counted(); calls["GET qemu"] != 1 || calls["GET current"] != 0 {
		t.Errorf("calls: %v", calls)
	}
}

// A guest that does not come up on one node is made on another, and its record
// follows. Nothing is left of the first.
func TestAGuestThatDoesNotBoot(t *testing.T) {
	boots := 0
	srv := &pvetest.Server{AgentDelay: func(int) time.Duration {
		if boots++; boots == 1 {
			return -1
		}
		return 0
	}}
	l := newLab(t, srv)
	l.addNodes(1)
	l.srv.Edit(func(c *pvetest.Cluster) { // the first is chosen first, whatever was there
		grant(c, "/nodes", "Sys.Audit")
		c.Nodes[0].Memory *= 2
	})
	p := l.provisioner()
	p.bootTime = 100 * time.Millisecond
	spec := testSpec(1)
	var started []string
	spec.Started = func(_ context.Context, m provisioner.Machine) error { started = append(started, m.Handle); return nil }
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(started) != 2 || started[1] != m.Handle || l.nodes()["pve2"] != 1 {
		t.Errorf("started %v, made %s; machines on %v", started, m.Handle, l.nodes())
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// Where there is no other node, a guest gets all the time there is. Who gives up
// then knows of the machine, and destroys it or goes on with it.
func TestAGuestThatDoesNotBootAnywhere(t *testing.T) {
	l := newLab(t, &pvetest.Server{AgentDelay: func(int) time.Duration { return -1 }})
	p := l.provisioner()
	p.bootTime = time.Nanosecond
	spec := testSpec(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var m provisioner.Machine
	spec.Started = func(_ context.Context, started provisioner.Machine) error { m = started; return nil }
	pings := 0
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST ping" {
			if pings++; pings == 3 {
				cancel()
			}
		}
		return nil
	})
	if _, err := p.Create(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v", err)
	}
	if calls := l.counted(); calls["POST start"] != 1 || calls["DELETE "] != 0 {
		t.Errorf("calls: %v", calls)
	}
	l.onCall(nil)
	if again, err := l.provisioner().Create(t.Context(), testSpec(1)); err != nil || again.Ref != m.Ref {
		t.Errorf("Create again: %+v, %v, want %+v", again, err, m)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// A sandbox of which no handle is known is gone only when all that may be its
// machine was looked at, and with it goes what was on the node that was away.
func TestDestroyWithoutAHandleWaitsForEveryNode(t *testing.T) {
	l, first, second := twoNodes(t, &pvetest.Server{Staleness: -1})
	l.node("pve2", func(n *pvetest.Node) { n.Down = true })
	for _, sandbox := range []string{second.Sandbox, "sb-never"} {
		err := l.provisioner().Destroy(t.Context(), provisioner.Ref{Sandbox: sandbox})
		if !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), second.Handle+" on pve2") || strings.Contains(err.Error(), first.Handle) {
			t.Errorf("Destroy of %s while a node is down: %v", sandbox, err)
		}
	}
	l.node("pve2", func(n *pvetest.Node) { n.Down = false })
	for _, sandbox := range []string{second.Sandbox, "sb-never"} {
		if err := l.provisioner().Destroy(t.Context(), provisioner.Ref{Sandbox: sandbox}); err != nil {
			t.Errorf("Destroy of %s: %v", sandbox, err)
		}
	}
	if left := l.configs(); left[handleID(t, second)] != nil || left[handleID(t, first)] == nil {
		t.Errorf("left: %v", left)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.Roles["R-pool-"+testPool].Privs = nil })
	if err := l.provisioner().Destroy(t.Context(), provisioner.Ref{Sandbox: first.Sandbox}); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "VM.Audit") {
		t.Errorf("Destroy by who sees no machine: %v", err)
	}
}
