package proxmox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	reads = 8 // configs read at once
	// Each List reads the configs again that were not read for longest, so that
	// what does not show in the tags comes out in time.
	rereads = 2
)

// entry is what is known of a machine that may be ours.
type entry struct {
	vm      pve.VM
	sign    string    // how it looked in the inventory when it was read; empty: written, or removed, by us since
	mark    string    // what shows in the inventory that it is as we wrote it
	read    time.Time // when its config was read, or written by us
	ours    bool
	papers  provisioner.Papers // of one of ours
	stage   stage
	started time.Time // by us, and its guest was not up since
	up      time.Time // when its guest was seen to be up last
	stopped bool      // its node said so, as opposed to the inventory, which is old
}

// sign sums up what an inventory shows of a machine that changes with its config.
func sign(r pve.Resource) string {
	return strings.Join([]string{r.Node, string(r.Tags), string(r.Pool), r.Lock}, "\x00")
}

// remember notes what was just written to a machine, and says whether it is off.
func (p *Provisioner) remember(vm pve.VM, papers provisioner.Papers, description string) (off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	off = p.known[vm.ID].stopped
	p.known[vm.ID] = entry{vm: vm, mark: p.mark(description), read: time.Now(), ours: true, papers: papers, stage: whole, stopped: off}
	return off
}

// bury notes that a machine is gone, which an inventory may not know yet.
func (p *Provisioner) bury(vm pve.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[vm.ID] = entry{vm: vm, read: time.Now()}
}

// forget makes the next look read a machine's config again.
func (p *Provisioner) forget(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
	p.surveyed = nil
}

// pooled reports whether the machine was in our pool when we looked last.
func (p *Provisioner) pooled(id int) bool {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if last == nil {
		return false
	}
	r, ok := last.vm(id)
	return ok && p.Pool != "" && string(r.Pool) == p.Pool
}

// List implements [provisioner.Provisioner]. It makes one call, and one more
// for each machine that is new, was changed or does not run, and a few to make
// sure of what it knows. A node that hangs or is away keeps it from nothing that
// concerns the others.
func (p *Provisioner) List(ctx context.Context) ([]provisioner.Machine, error) {
	p.init()
	machines, err := p.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", sentinel(p.advise(err)))
	}
	return machines, nil
}

func (p *Provisioner) list(ctx context.Context) ([]provisioner.Machine, error) {
	inv, err := p.look(ctx)
	if err != nil {
		return nil, err
	}
	p.warnOfStrangers(ctx, inv)
	found, dark, err := p.survey(ctx, inv, rereads)
	if err != nil {
		return nil, err
	}
	if len(found)+len(dark) == 0 {
		if err := p.sighted(ctx); err != nil {
			return nil, err
		}
	}
	machines, err := p.powered(ctx, inv, found)
	machines = append(machines, p.spares(inv, found)...)
	for _, r := range dark {
		machines = append(machines, provisioner.Machine{Ref: provisioner.Ref{Handle: handle{id: int(r.VMID)}.String()}, Unread: true})
	}
	return machines, err
}

// survey returns the machines of ours in an inventory, and those that may be and
// can't be read now. It reads the configs of what is new or changed, and of so
// many again that are neither.
func (p *Provisioner) survey(ctx context.Context, inv *inventory, again int) (found []entry, dark []pve.Resource, err error) {
	ask := p.unread(inv, again)
	var mu sync.Mutex
	eachNode(ask, func(r pve.Resource) {
		if err := p.read(ctx, inv, r); err != nil {
			p.log.DebugContext(ctx, "a machine can't be read", "vmid", int(r.VMID), "err", err)
			mu.Lock()
			defer mu.Unlock()
			dark = append(dark, r)
		}
	})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(dark) == 0 && (p.surveyed == nil || p.surveyed.at.Before(inv.at)) {
		p.surveyed = inv
	}
	return p.ours(inv), dark, nil
}

// eachNode does something about each machine, on all nodes at once and on each
// with a few at a time.
func eachNode(all []pve.Resource, do func(pve.Resource)) {
	nodes := map[string][]pve.Resource{}
	for _, r := range all {
		nodes[r.Node] = append(nodes[r.Node], r)
	}
	var wg sync.WaitGroup
	for _, list := range nodes {
		wg.Go(func() {
			var g errgroup.Group
			g.SetLimit(reads)
			for _, r := range list {
				g.Go(func() error { do(r); return nil })
			}
			_ = g.Wait()
		})
	}
	wg.Wait()
}

// unread returns the machines whose configs are to be read, and forgets those
// that are gone.
func (p *Provisioner) unread(inv *inventory, again int) []pve.Resource {
	brand := p.brand()
	p.mu.Lock()
	defer p.mu.Unlock()
	var ask, old []pve.Resource
	there := make(map[int]bool, len(inv.vms))
	for _, r := range inv.vms {
		id := int(r.VMID)
		there[id] = true
		e, known := p.known[id]
		switch {
		case p.making[id] || r.Type != "qemu" || bool(r.Template):
		case known && e.read.After(inv.at): // we know better than the inventory
		case known && (e.sign == sign(r) || e.sign == "" && e.ours && (r.Tags == "" || slices.Contains(pve.SplitTags(string(r.Tags)), e.mark))):
			if r.Tags != "" {
				e.sign = sign(r)
				p.known[id] = e
			}
			old = append(old, r)
		case known && e.ours, p.suspect(r, brand):
			ask = append(ask, r)
		}
	}
	maps.DeleteFunc(p.known, func(id int, e entry) bool { return !there[id] && e.read.Before(inv.at) })
	slices.SortFunc(old, func(a, b pve.Resource) int {
		return p.known[int(a.VMID)].read.Compare(p.known[int(b.VMID)].read)
	})
	return append(ask, old[:min(again, len(old))]...)
}

// suspect reports whether a machine that we know nothing of may be ours: it
// bears our mark, or is in our pool without any, or so new that the inventory
// shows nothing but its ID.
func (p *Provisioner) suspect(r pve.Resource, brand string) bool {
	tags := pve.SplitTags(string(r.Tags))
	switch {
	case slices.ContainsFunc(tags, func(t string) bool { return strings.HasPrefix(t, brand) }):
		return true
	case slices.ContainsFunc(tags, markForm.MatchString):
		return false // another installation's
	case r.Pool != "":
		return string(r.Pool) == p.Pool
	}
	return p.VMIDs.has(int(r.VMID)) && r.Name == "" && r.Status == "unknown"
}

// read reads the config of a machine and notes what it is.
func (p *Provisioner) read(ctx context.Context, inv *inventory, r pve.Resource) error {
	id := int(r.VMID)
	var m live
	err := p.askNode(ctx, inv, r.Node, func(ctx context.Context) (err error) {
		m, err = p.inspect(ctx, r.VM())
		return err
	})
	e := entry{vm: r.VM(), sign: sign(r), read: time.Now()}
	switch {
	case err == nil:
		e.ours, e.papers, e.stage = true, m.papers, m.stage
	case errors.Is(err, provisioner.ErrNotOurs):
		p.log.DebugContext(ctx, "left alone", "vmid", id, "err", err)
	case errors.Is(err, provisioner.ErrNotFound), errors.Is(err, errHidden), errors.Is(err, errCloning):
		p.forget(id)
		return nil
	default:
		p.mu.Lock()
		known := p.known[id].ours
		p.mu.Unlock()
		if known && ctx.Err() == nil {
			return nil // its node does not answer: what is known of it still holds
		}
		return fmt.Errorf("read the papers of VM %s: %w", r.VM(), err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.known[id]; old.read.Before(e.read) && !p.making[id] {
		e.stopped, e.started, e.up = old.stopped && e.ours, old.started, old.up
		p.known[id] = e
	}
	return nil
}

// ours returns what is known of the machines of ours in an inventory, one for
// each sandbox: a clone whose answer was lost may have left a second one. p.mu is held.
func (p *Provisioner) ours(inv *inventory) []entry {
	best := map[string]entry{}
	for _, r := range inv.vms {
		e := p.known[int(r.VMID)]
		if !e.ours {
			continue
		}
		if other, ok := best[e.papers.Sandbox]; !ok || other.stage == draft && e.stage == whole {
			best[e.papers.Sandbox] = e
		}
	}
	return slices.Collect(maps.Values(best))
}

// spares returns the drafts in an inventory beside the whole machines in found.
func (p *Provisioner) spares(inv *inventory, found []entry) (all []provisioner.Machine) {
	own := map[string]bool{}
	for _, e := range found {
		own[e.papers.Sandbox] = e.stage == whole
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range inv.vms {
		if e := p.known[int(r.VMID)]; e.ours && e.stage == draft && own[e.papers.Sandbox] {
			m := p.describe(e.vm, e.papers, false)
			m.Spare = true
			all = append(all, m)
		}
	}
	return all
}

// hasWhole reports whether a whole machine of a sandbox is known.
func (p *Provisioner) hasWhole(sandbox string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.known {
		if e.ours && e.stage == whole && e.papers.Sandbox == sandbox {
			return true
		}
	}
	return false
}

// all returns every machine that bears the papers of a sandbox.
func (p *Provisioner) all(sandbox string) []pve.VM {
	p.mu.Lock()
	defer p.mu.Unlock()
	var vms []pve.VM
	for _, e := range p.known {
		if e.ours && e.papers.Sandbox == sandbox {
			vms = append(vms, e.vm)
		}
	}
	return vms
}

// powered finds out which machines run. The inventory may be older than a
// start or a stop, so where it does not say what was known before, the node is
// asked. One that is off as far as is known stays so on a node that does not answer:
// nobody is to wait for its guest.
func (p *Provisioner) powered(ctx context.Context, inv *inventory, found []entry) ([]provisioner.Machine, error) {
	runs, off := map[int]bool{}, map[int]bool{}
	var doubtful []pve.Resource
	for _, e := range found {
		r, _ := inv.vm(e.vm.ID)
		off[e.vm.ID] = e.stopped || e.papers.Stopped
		switch {
		case r.Status == "running" && !e.stopped:
			runs[e.vm.ID] = true
		case r.Status == "stopped" && e.stopped, e.stage == draft:
		default:
			doubtful = append(doubtful, r)
		}
	}
	var mu sync.Mutex
	err := p.askWhatRuns(ctx, inv, doubtful, func(id int, running, known bool) {
		if known {
			p.setStopped(id, !running)
		}
		mu.Lock()
		defer mu.Unlock()
		runs[id] = running || !known && !off[id]
	})
	machines := make([]provisioner.Machine, 0, len(found))
	for _, e := range found {
		machines = append(machines, p.describe(e.vm, e.papers, runs[e.vm.ID]))
		if runs[e.vm.ID] && slices.Contains(p.all(e.papers.Sandbox), e.vm) { // else it was destroyed meanwhile
			p.arm(e.vm, e.papers)
		}
	}
	return machines, err
}

// askWhatRuns asks the nodes of machines whether these run, each of whose nodes
// answers in one call if there are many. Of those on a node that does not answer
// nothing is known, and they may go on when it is back.
func (p *Provisioner) askWhatRuns(ctx context.Context, inv *inventory, all []pve.Resource, tell func(id int, running, known bool)) error {
	nodes := map[string][]pve.Resource{}
	for _, r := range all {
		nodes[r.Node] = append(nodes[r.Node], r)
	}
	var g errgroup.Group
	for node, list := range nodes {
		g.Go(func() error {
			runs := map[int]bool{}
			err := p.askNode(ctx, inv, node, func(ctx context.Context) error { return p.statuses(ctx, node, list, runs) })
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && !errors.Is(err, errSilent) {
				p.log.WarnContext(ctx, "a node does not say what runs", "node", node, "err", err)
			}
			for _, r := range list {
				if running, known := runs[int(r.VMID)]; known || err != nil {
					tell(int(r.VMID), running, known)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// statuses fills in which machines of a node run. What went away meanwhile is
// left out.
func (p *Provisioner) statuses(ctx context.Context, node string, list []pve.Resource, runs map[int]bool) error {
	if len(list) > reads {
		machines, err := p.Client.Machines(ctx, node)
		for _, m := range machines {
			runs[int(m.VMID)] = m.Status == "running"
		}
		return err
	}
	for _, r := range list {
		s, err := p.Client.Status(ctx, r.VM())
		switch {
		case errors.Is(err, pve.NotFound), errors.Is(err, pve.Permission):
		case err != nil:
			return err
		default:
			runs[int(r.VMID)] = s.Running()
		}
	}
	return nil
}
