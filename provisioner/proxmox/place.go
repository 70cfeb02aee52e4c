package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// settleTime is how long after its start a machine's memory may be missing in
// what the cluster says of its node: pvestatd looks every 10 s.
const settleTime = 15 * time.Second

// takenRest is how long a VMID is left alone that was found in use.
const takenRest = 5 * time.Minute

// site is where a machine can be made, and of what.
type site struct {
	node     string
	template pve.VM // on another node, if its disks are on shared storage
	free     int64  // bytes of memory; only the order counts if !known
	known    bool   // the token may see the node's memory
	load     int    // machines being made there
	others   bool   // there are other nodes to try
}

// reservation is the memory of a machine that is being made, or was just now.
type reservation struct {
	node  string
	bytes int64
	until time.Time // zero while it is being made
}

// place chooses where to make a machine: of the nodes that have its template,
// the one with the most memory that is free and not promised. release must be
// called when the machine is made or given up.
func (p *Provisioner) place(ctx context.Context, spec provisioner.Spec, avoid map[string]bool) (best site, release func(made bool), err error) {
	inv, err := p.glance(ctx)
	if err != nil {
		return site{}, nil, err
	}
	sites, err := p.sites(ctx, inv, spec)
	if err != nil {
		return site{}, nil, err
	}
	sites = slices.DeleteFunc(sites, func(s site) bool { return avoid[s.node] })
	if len(sites) == 0 {
		return site{}, nil, errNoSite
	}
	need := int64(spec.MemoryMB) << 20
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range sites {
		p.weigh(&sites[i], inv)
	}
	rand.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	best = slices.MaxFunc(sites, func(a, b site) int {
		return cmp.Or(cmp.Compare(a.free, b.free), cmp.Compare(b.load, a.load))
	})
	if best.known && best.free < need {
		return site{}, nil, fmt.Errorf("no node has %d MB of memory free; %s has most, %d MB: %w",
			spec.MemoryMB, best.node, best.free>>20, provisioner.ErrExhausted)
	}
	best.others = slices.ContainsFunc(sites, func(s site) bool { return s.node != best.node })
	r := &reservation{node: best.node, bytes: need}
	p.reserved = append(p.reserved, r)
	return best, func(made bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if made {
			r.until = time.Now().Add(settleTime)
		} else {
			p.reserved = slices.DeleteFunc(p.reserved, func(other *reservation) bool { return other == r })
		}
	}, nil
}

// errNoSite: all nodes that could be tried were.
var errNoSite = errors.New("no other node to try")

// weigh fills in how much room a node has; p.mu is held.
func (p *Provisioner) weigh(s *site, inv *inventory) {
	n := inv.nodes[s.node]
	s.free, s.known = int64(n.MaxMem-n.Mem), n.MaxMem > 0
	if !s.known { // without Sys.Audit on the node: what its machines may take
		for _, r := range inv.vms {
			if r.Node == s.node && r.Status == "running" {
				s.free -= int64(r.MaxMem)
			}
		}
	}
	now := time.Now()
	p.reserved = slices.DeleteFunc(p.reserved, func(r *reservation) bool { return !r.until.IsZero() && now.After(r.until) })
	for _, r := range p.reserved {
		if r.node != s.node {
			continue
		}
		s.free -= r.bytes
		if r.until.IsZero() {
			s.load++
		}
	}
}

// sites lists where the spec's template can be cloned to now.
func (p *Provisioner) sites(ctx context.Context, inv *inventory, spec provisioner.Spec) ([]site, error) {
	root, err := p.parseRoot(spec.Root)
	if err != nil {
		return nil, err
	}
	matches := p.matching(inv, root)
	if len(matches) == 0 {
		return nil, unseen(inv, root)
	}
	var sites []site
	var errs []error
	for _, r := range matches {
		t, err := p.template(ctx, inv, r.VM())
		if err == nil {
			err = errors.Join(t.usable(root), p.connectable(t, spec.Network))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		nodes := t.nodes(inv)
		allowed := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return len(p.Nodes) > 0 && !slices.Contains(p.Nodes, n) })
		if len(allowed) == 0 {
			errs = append(errs, fmt.Errorf("template %s can be cloned on %s, and only %s may be used", r.VM(), strings.Join(nodes, ", "), strings.Join(p.Nodes, ", ")))
		}
		for _, node := range allowed {
			sites = append(sites, site{node: node, template: r.VM()})
		}
	}
	if len(sites) == 0 {
		return nil, fmt.Errorf("template %q can't be cloned: %w: %w", root.name, errors.Join(errs...), provisioner.ErrUnavailable)
	}
	if awake := slices.DeleteFunc(slices.Clone(sites), func(s site) bool { return p.silent.of(s.node) }); len(awake) > 0 {
		return awake, nil
	}
	return sites, nil
}

// reserveID returns a VMID of the range that is not known to be in use. It
// goes round the range, so that an ID rests after its machine's end: whoever
// still means the old machine would hit a new one. done must be called when the
// machine is made or given up.
func (p *Provisioner) reserveID(inv *inventory) (id int, done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := make(map[int]bool, len(inv.vms))
	for _, r := range inv.vms {
		used[int(r.VMID)] = true
	}
	now := time.Now()
	size := p.VMIDs.Last - p.VMIDs.First + 1
	if p.cursor == 0 {
		p.cursor = rand.IntN(size) // others may use the range, too
	}
	hidden := 0
	for range size {
		p.cursor++
		id := p.VMIDs.First + p.cursor%size
		if now.Before(p.taken[id]) {
			hidden++
			continue
		}
		if used[id] || p.making[id] || p.known[id].ours {
			continue
		}
		p.making[id] = true
		return id, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.making, id)
		}, nil
	}
	if hidden > 0 {
		return 0, nil, p.crowded(hidden)
	}
	return 0, nil, fmt.Errorf("all VMIDs of the range %v are in use: widen it, or destroy machines: %w", p.VMIDs, provisioner.ErrExhausted)
}

// crowded says that VMIDs which were tried belong to machines that we don't see.
func (p *Provisioner) crowded(n int) error {
	return fmt.Errorf("%d free-looking VMIDs of the range %v belong to machines that the token can't see: set proxmox_vmid_range to one that only AgentLab uses: %w",
		n, p.VMIDs, provisioner.ErrExhausted)
}

// crowds reports whether we found VMIDs in use lately by machines that we don't see.
func (p *Provisioner) crowds() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.taken, func(_ int, until time.Time) bool { return now.After(until) })
	return len(p.taken) > 0
}

// avoidID notes that a VMID is in use by a machine that we don't see. The search
// goes on somewhere else: such machines come in rows.
func (p *Provisioner) avoidID(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[id] = time.Now().Add(takenRest)
	p.cursor = rand.IntN(p.VMIDs.Last - p.VMIDs.First + 1)
}

// root is what machines are made from, in the syntax of PVE's own options:
// TEMPLATE[,full=1[,storage=STORAGE]], where TEMPLATE is a name or a VMID. A
// name may be that of several templates, on several nodes.
type root struct {
	name    string
	full    bool
	storage string
}

func (p *Provisioner) parseRoot(text string) (root, error) {
	props := pve.ParseProperties(cmp.Or(text, p.Template))
	r := root{name: props.First(), full: props.Get("full") == "1", storage: props.Get("storage")}
	if r.name == "" {
		return r, fmt.Errorf("no template is set: name one in the profile or the configuration: %w", provisioner.ErrInvalid)
	}
	for i, prop := range props {
		if i > 0 && prop.Key != "full" && prop.Key != "storage" || i == 0 && prop.Key != "" {
			return r, fmt.Errorf("root %q: %q is not understood; write TEMPLATE[,full=1[,storage=STORAGE]]: %w", text, prop.Key, provisioner.ErrInvalid)
		}
	}
	if r.storage != "" && !r.full {
		return r, fmt.Errorf("root %q: a linked clone is where its template is; add full=1, or leave out the storage: %w", text, provisioner.ErrInvalid)
	}
	return r, nil
}

// matching returns the templates that the root names. Of a mute node the
// inventory has neither names nor what is a template, so that those count which
// were read before.
func (p *Provisioner) matching(inv *inventory, r root) []pve.Resource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(inv.vms), func(vm pve.Resource) bool {
		known := p.templates[int(vm.VMID)]
		switch {
		case vm.Type != "qemu":
			return true
		case strconv.Itoa(int(vm.VMID)) == r.name:
			return false
		case vm.Name == "" && known.vm == vm.VM():
			return known.cfg["name"] != r.name || !known.cfg.Template()
		}
		return string(vm.Name) != r.name || !bool(vm.Template) // a name alone must not pick a machine
	})
}

// unseen says why there is no template to be seen that the root names.
func unseen(inv *inventory, r root) error {
	for _, vm := range inv.vms {
		if vm.Name == "" && inv.mute(vm.Node) {
			return fmt.Errorf("no template %q is to be seen, but node %s says nothing of its machines: run on it: systemctl restart pvestatd: %w",
				r.name, vm.Node, provisioner.ErrUnavailable)
		}
	}
	return fmt.Errorf("no template %q is to be seen: correct the name, or give the token VM.Audit and VM.Clone on /vms/ID of the template: %w",
		r.name, provisioner.ErrInvalid)
}
