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
	sign    string    // how it looked in the inventory when it was read; empty: written by us since
	mark    string    // what shows in the inventory that it is as we wrote it
	read    time.Time // when its config was read, or written by us
	ours    bool
	papers  provisioner.Papers // of one of ours
	stage   stage
	started time.Time // by us, and its guest was not up since
	stopped bool      // its node said so, as opposed to the inventory, which is old
}

// sign sums up what an inventory shows of a machine that changes with its config.
func sign(r pve.Resource) string {
	return strings.Join([]string{r.Node, string(r.Tags), string(r.Pool), r.Lock}, "\x00")
}

// remember notes what was just written to a machine.
func (p *Provisioner) remember(vm pve.VM, papers provisioner.Papers, description string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[vm.ID] = entry{vm: vm, mark: p.mark(description), read: time.Now(), ours: true, papers: papers, stage: whole}
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
// sure of what it knows.
func (p *Provisioner) List(ctx context.Context) ([]provisioner.Machine, error) {
	p.init()
	inv, err := p.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", sentinel(err))
	}
	found, err := p.survey(ctx, inv, rereads)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", sentinel(err))
	}
	if len(found) == 0 {
		if err := p.sighted(ctx); err != nil {
			return nil, fmt.Errorf("list machines: %w", sentinel(err))
		}
	}
	machines, err := p.powered(ctx, inv, found)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", sentinel(err))
	}
	return machines, nil
}

// survey returns the machines of ours in an inventory. It reads the configs of
// what is new or changed, and of so many again that are neither. An error says that there
// are some which may be ours and can't be read.
func (p *Provisioner) survey(ctx context.Context, inv *inventory, again int) ([]entry, error) {
	ask := p.unread(inv, again)
	var (
		mu   sync.Mutex
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(reads)
	for _, r := range ask {
		g.Go(func() error {
			if err := p.read(ctx, r); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return p.ours(inv), errors.Join(errs...)
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
		case known && (e.sign == sign(r) || e.sign == "" && (r.Tags == "" || slices.Contains(pve.SplitTags(string(r.Tags)), e.mark))):
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
func (p *Provisioner) read(ctx context.Context, r pve.Resource) error {
	id := int(r.VMID)
	m, err := p.inspect(ctx, r.VM())
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
		e.stopped, e.started = old.stopped && e.ours, old.started
		p.known[id] = e
	}
	return nil
}

// ours returns what is known of the machines of ours in an inventory, one for
// each sandbox: a clone whose answer was lost may have left a second one.
func (p *Provisioner) ours(inv *inventory) []entry {
	p.mu.Lock()
	defer p.mu.Unlock()
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
// start, so where it does not say that a machine runs, its node is asked; once,
// if the machine stays off.
func (p *Provisioner) powered(ctx context.Context, inv *inventory, found []entry) ([]provisioner.Machine, error) {
	machines := make([]provisioner.Machine, len(found))
	var g errgroup.Group
	g.SetLimit(reads)
	for i, e := range found {
		g.Go(func() error {
			r, _ := inv.vm(e.vm.ID)
			running, err := p.running(ctx, inv, r, e)
			machines[i] = p.describe(e.vm.ID, e.papers, running)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return machines, nil
}

func (p *Provisioner) running(ctx context.Context, inv *inventory, r pve.Resource, e entry) (bool, error) {
	switch {
	case r.Status == "running":
		p.setStopped(e, false)
		return true, nil
	case r.Status == "stopped" && e.stopped, e.stage == draft:
		return false, nil
	case !inv.online(r.Node):
		return true, nil // nobody can know; it may go on when the node comes back
	}
	s, err := p.Client.Status(ctx, e.vm)
	switch {
	case errors.Is(err, pve.NotFound), errors.Is(err, pve.Permission):
		return false, nil // it went away meanwhile
	case errors.Is(err, pve.NodeUnreachable):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("ask whether VM %s runs: %w", e.vm, err)
	}
	p.setStopped(e, !s.Running())
	return s.Running(), nil
}

func (p *Provisioner) setStopped(e entry, stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cur, ok := p.known[e.vm.ID]; ok && cur.stopped != stopped {
		cur.stopped = stopped
		p.known[e.vm.ID] = cur
	}
}
