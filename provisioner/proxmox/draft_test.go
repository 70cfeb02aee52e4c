package proxmox

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// draft leaves what a process leaves that dies after its clone, and returns
// what it has recorded.
func (l *lab) draft(spec provisioner.Spec) handle {
	l.t.Helper()
	ctx, die := context.WithCancel(l.t.Context())
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "PUT config" {
			die()
		}
		if ctx.Err() == nil {
			return nil
		}
		return &pvetest.Fault{Drop: true}
	})
	defer l.onCall(nil)
	var recorded string
	spec.Intend = func(_ context.Context, handle string) error { recorded = handle; return nil }
	p := l.provisioner()
	p.undo = time.Millisecond
	if _, err := p.Create(ctx, spec); err == nil {
		l.t.Fatal("Create succeeds")
	}
	h, err := parseHandle(recorded)
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// A draft has the tags of its template, which may look like another
// installation's.
func TestDraftOfATaggedTemplateIsListed(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[9000].Config["tags"] = "agentlab-template" })
	h := l.draft(testSpec(1))
	list, err := l.provisioner().List(t.Context())
	if err != nil || len(list) != 1 || list[0].Handle != (handle{id: h.id}).String() {
		t.Errorf("List: %+v, %v; want VM %d", list, err, h.id)
	}
}

// A draft that was started, such as by its node since the template is, goes too.
func TestRunningDraftGoes(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	spec := testSpec(1)
	h := l.draft(spec)
	p := l.provisioner()
	task, err := p.Client.Start(t.Context(), pve.VM{Node: "pve", ID: h.id})
	if err := p.await(t.Context(), task, err); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context(), provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: h.String()}); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

// What is put after the papers, as PVE and editors do, changes nothing.
func TestWhiteSpaceAfterPapers(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	m, err := l.provisioner().Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[handleID(t, m)].Config["description"] += " \r\n\n" })
	p := l.provisioner()
	if list, err := p.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("List: %+v, %v", list, err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
}
