package proxmox

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Flaw is something that is wrong, and what mends it: a command or advice.
type Flaw struct {
	What string
	Run  string // on a node of the cluster, as root
	Do   string // if there is no such command
}

// Error makes a Flaw an error.
func (f Flaw) Error() string {
	if f.Run != "" {
		return f.What + "; run on a node: " + f.Run
	}
	return f.What + "; " + f.Do
}

// Template is one of the templates that a root names.
type Template struct {
	VM      pve.VM
	Flaws   []Flaw   // why no machine can be made of it
	Nodes   []string // where machines can be made of it
	Disks   []pve.Resource
	Bridges []string // that its network cards are connected to
	Agent   bool     // it is switched on
	Full    bool     // the root asks for full clones
	Target  string   // storage of full clones; empty is that of the disks
}

// Templates returns what a root names, as far as the token sees it, fit for
// machines or not.
func (p *Provisioner) Templates(ctx context.Context, text string) ([]Template, error) {
	p.init()
	r, err := p.parseRoot(text)
	if err != nil {
		return nil, err
	}
	inv, err := p.look(ctx)
	if err != nil {
		return nil, err
	}
	var all []Template
	for _, res := range p.matching(inv, r) {
		t := Template{VM: res.VM(), Full: r.full, Target: r.storage}
		if !inv.online(res.Node) {
			t.Flaws = []Flaw{{What: "is on a node that is not online", Do: "start the node, or copy the template to another"}}
			all = append(all, t)
			continue
		}
		known, err := p.readTemplate(ctx, inv, res.VM())
		if err != nil {
			return nil, err
		}
		t.fill(known, r)
		for _, node := range known.nodes(inv) {
			if len(p.Nodes) == 0 || slices.Contains(p.Nodes, node) {
				t.Nodes = append(t.Nodes, node)
			}
		}
		if len(t.Nodes) == 0 {
			t.Flaws = append(t.Flaws, Flaw{
				What: fmt.Sprintf("can't be cloned to %s: its disks are not on shared storage", strings.Join(p.Nodes, ", ")),
				Do:   "set proxmox_node to " + t.VM.Node + ", or leave it out",
			})
		}
		all = append(all, t)
	}
	return all, nil
}

func (t *Template) fill(known knownTemplate, r root) {
	t.Flaws, t.Agent = known.flaws(r), known.cfg.AgentEnabled()
	for _, d := range known.disks {
		t.Disks = append(t.Disks, d.storage)
	}
	for option, value := range known.cfg {
		if bridge := pve.ParseProperties(value).Get("bridge"); strings.HasPrefix(option, "net") && bridge != "" {
			t.Bridges = append(t.Bridges, bridge)
		}
	}
	slices.Sort(t.Bridges)
}

// VMID returns the ID of a machine of ours.
func VMID(ref provisioner.Ref) (int, error) {
	h, err := parseHandle(ref.Handle)
	return h.id, err
}
