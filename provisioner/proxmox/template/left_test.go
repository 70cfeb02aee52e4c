package template

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// twoNodes is a lab with a second node, whose storage is its own.
func twoNodes(t *testing.T, taskTime map[string]time.Duration) *lab {
	l := newLab(t, &pvetest.Server{Staleness: -1, TaskTime: taskTime})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.AddNode("pve2")
		c.Storages[0].Nodes = []string{"pve"}
		second := *c.Storages[0]
		second.ID, second.Nodes = "second", []string{"pve2"}
		c.Storages = append(c.Storages, &second)
		for _, g := range Grants(pve.Version{Major: 8, Minor: 4}, "pve2", "second", "second", "second", "vmbr0", "") {
			if g.Path != "/vms" && !strings.HasPrefix(g.Path, "/sdn/") {
				grant(c, g.Path, g.Privs...)
			}
		}
	})
	return l
}

// begunOnAnotherNode is twoNodes, and on the first what a build has left that
// was killed in the first boot.
func begunOnAnotherNode(t *testing.T) *lab {
	l := twoNodes(t, nil)
	ctx, cancel := context.WithCancel(l.ctx())
	first := l.builder()
	first.Spec.Node, first.Keep = "pve", true // who is dead removes nothing
	l.onCall(once("GET file-read", pvetest.Fault{Drop: true}, cancel))
	if _, err := first.Build(ctx); err == nil {
		t.Fatal("the build was not interrupted")
	}
	l.onCall(nil)
	return l
}

func (l *lab) second() *Builder {
	b := l.builder()
	b.Spec.Node = "pve2"
	return b
}

// ofSecond is what there is when all was built on the second node, besides.
func ofSecond(id int, besides ...string) []string {
	all := append(besides, fmt.Sprintf("VM %d debian-12", id),
		fmt.Sprintf("volume second:%[1]d/base-%[1]d-disk-0.qcow2", id), fmt.Sprintf("volume second:%[1]d/vm-%[1]d-cloudinit.qcow2", id))
	slices.Sort(all)
	return all
}

// A build goes on on another node, and removes what it began on the first.
func TestGoesOnOnAnotherNode(t *testing.T) {
	for name, id := range map[string]int{"any-vmid": 9001, "same-vmid": 9000} {
		t.Run(name, func(t *testing.T) {
			l := begunOnAnotherNode(t)
			b := l.second()
			if id == 9000 {
				b.Spec.VMID = id
			}
			result, err := b.Build(l.ctx())
			if err != nil || result.VM.Node != "pve2" || len(result.Left) > 0 {
				t.Errorf("Build: %+v, %v", result, err)
			}
			if diff := cmp.Diff(ofSecond(id), l.everything()); diff != "" {
				t.Errorf("there are (-want +got):\n%s", diff)
			}
		})
	}
}

// While the first node is away, what it may have is named; the same build, run
// again when it is back, removes that.
func TestLeftOnANodeThatIsAway(t *testing.T) {
	for name, away := range map[string]func(*pvetest.Node, bool){
		"down": func(n *pvetest.Node, is bool) { n.Down = is },
		"hung": func(n *pvetest.Node, is bool) { n.Hung = is },
	} {
		t.Run(name, func(t *testing.T) {
			l := begunOnAnotherNode(t)
			first := l.everything()
			l.srv.Edit(func(c *pvetest.Cluster) { away(c.Nodes[0], true) })
			b := l.second()
			b.nodeTime = 50 * time.Millisecond
			h, err := pve.NewHTTPS(l.srv.Listen("pve2"), pve.Auth{Token: l.tok}, pve.Trust{Fingerprint: l.srv.Fingerprint("pve2")})
			if err != nil {
				t.Fatal(err)
			}
			b.Client, b.Try = &pve.Client{Transport: h}, nil
			result, err := b.Build(l.ctx())
			left := strings.Join(result.Left, "\n")
			if err != nil || !matches("machine 9000 on pve has the tag agentlab-build and can't be looked at: .*run this again.*storage local of node pve can't be looked at: .*run this again", left) {
				t.Errorf("Build: %+v, %v", result, err)
			}
			if diff := cmp.Diff(ofSecond(9001, first...), l.everything()); diff != "" {
				t.Errorf("there are (-want +got):\n%s", diff)
			}
			l.srv.Edit(func(c *pvetest.Cluster) { away(c.Nodes[0], false) })
			if result, err := l.second().Build(l.ctx()); err != nil || !result.Existing || len(result.Left) > 0 {
				t.Errorf("Build again: %+v, %v", result, err)
			}
			if diff := cmp.Diff(ofSecond(9001), l.everything()); diff != "" {
				t.Errorf("there are in the end (-want +got):\n%s", diff)
			}
		})
	}
}

// What can't be removed elsewhere is named with the command that does it, and
// keeps nothing from being built.
func TestLeftThatCanNotBeRemoved(t *testing.T) {
	l := begunOnAnotherNode(t)
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if r.Method == "DELETE" && strings.Contains(r.URL.Path, "/nodes/pve/") {
			return &pvetest.Fault{Status: 403, Reason: "Permission check failed"}
		}
		return nil
	})
	result, err := l.second().Build(l.ctx())
	left := strings.Join(result.Left, "\n")
	if err != nil || !matches("on node pve: qm stop 9000 && qm destroy 9000 --purge 1 --destroy-unreferenced-disks 1\n.*run on node pve: pvesm free local:i", left) {
		t.Errorf("Build: %v\n%s", err, left)
	}
}

// What is not left of a build of ours stays on the other node: a template of the
// same name, machines and files of other installations, images that are kept.
func TestSweepSparesOthers(t *testing.T) {
	l := begunOnAnotherNode(t)
	b := l.builder()
	b.Spec.Node = "pve"
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	other := l.builder()
	other.Spec.Image.Checksum = strings.Repeat("0", 128)
	kept, err := (&build{Builder: other, spec: other.Spec}).imageName(true)
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		for _, name := range []string{"import/" + kept, "import/agentlab-0123456789ab-0123456789abcdef.qcow2", "iso/agentlab-0123456789ab-debian-12.iso"} {
			content, _, _ := strings.Cut(name, "/")
			c.Volumes["local:"+name] = &pvetest.Volume{ID: "local:" + name, Storage: "local", Node: "pve", Size: 1 << 20, Format: "qcow2", Content: content}
		}
	})
	before := l.everything()
	if _, err := l.second().Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ofSecond(9001, before...), l.everything()); diff != "" {
		t.Errorf("there are (-want +got):\n%s", diff)
	}
	l.srv.Edit(func(c *pvetest.Cluster) {
		if c.VMs[200] == nil {
			t.Error("a machine of somebody else that bears the tag is gone")
		}
	})
}

// A download that nobody waits for any more would leave an image after the end.
func TestSweepEndsDownloads(t *testing.T) {
	l := twoNodes(t, map[string]time.Duration{"download": -1}) // until it is aborted
	ctx, cancel := context.WithCancel(l.ctx())
	first := l.builder()
	first.Spec.Node, first.Keep = "pve", true
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if strings.Contains(r.URL.Path, ":download:") {
			cancel()
		}
		return nil
	})
	if _, err := first.Build(ctx); err == nil {
		t.Fatal("the build was not interrupted")
	}
	l.onCall(nil)
	l.srv.Edit(func(*pvetest.Cluster) { l.srv.TaskTime = nil })
	b := l.second()
	b.Try = nil
	if _, err := b.Build(l.ctx()); err != nil {
		t.Fatal(err)
	}
	if tasks, err := l.client().ActiveTasks(l.ctx(), "pve"); err != nil || len(tasks) > 0 {
		t.Errorf("still active: %v, %v", tasks, err)
	}
	if diff := cmp.Diff(ofSecond(9000), l.everything()); diff != "" {
		t.Errorf("there are (-want +got):\n%s", diff)
	}
}
