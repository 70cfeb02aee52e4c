package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	races    = 16 // VMIDs that a clone tries
	searches = 64 // VMIDs of which a clone asks whether they are free, once one was not
	// defaultGrace is how long a machine may take to appear after a clone whose
	// answer was lost.
	defaultGrace = 5 * time.Second
	gracePoll    = 100 * time.Millisecond
)

// errRaced: the VMID went to somebody else, whose machine must not be touched.
var errRaced = errors.New("VMID is in use")

// clone makes a clone of a site's template under a VMID of our range. done must
// be called when the machine is made or given up.
func (p *Provisioner) clone(ctx context.Context, spec provisioner.Spec, s site) (vm pve.VM, done func(), err error) {
	inv, err := p.glance(ctx)
	if err != nil {
		return vm, nil, err
	}
	for range races {
		id, done, err := p.freeID(ctx, inv)
		if err != nil {
			return vm, nil, err
		}
		vm = pve.VM{Node: s.node, ID: id}
		err = p.cloneTo(ctx, spec, s, vm)
		if err == nil {
			return vm, done, nil
		}
		done()
		if !errors.Is(err, errRaced) {
			return vm, nil, err
		}
		p.avoidID(id)
	}
	return vm, nil, p.crowded(races)
}

// freeID reserves a VMID for a clone. Where some belong to machines that are not
// seen, it asks, which is cheaper than a clone that fails.
func (p *Provisioner) freeID(ctx context.Context, inv *inventory) (id int, done func(), err error) {
	for range searches {
		id, done, err = p.reserveID(inv)
		if err != nil || !p.crowds() {
			return id, done, err
		}
		err = p.Client.IDFree(ctx, id)
		if err == nil {
			return id, done, nil
		}
		done()
		if !pve.Taken(err, id) {
			return 0, nil, fmt.Errorf("find a free VMID: %w", err)
		}
		p.avoidID(id)
	}
	return 0, nil, p.crowded(searches)
}

// cloneTo clones to one VMID. What it intends is recorded before the call and,
// with the task, after it.
func (p *Provisioner) cloneTo(ctx context.Context, spec provisioner.Spec, s site, vm pve.VM) error {
	text, err := p.seal(vm.ID, draft, spec.Papers)
	if err != nil {
		return err
	}
	if err := p.intend(ctx, spec, handle{id: vm.ID}); err != nil {
		return err
	}
	root, err := p.parseRoot(spec.Root)
	if err != nil {
		return err
	}
	cs := pve.CloneSpec{NewID: vm.ID, Name: hostname(spec), Description: text, Pool: p.Pool, Full: root.full, Storage: root.storage}
	if s.node != s.template.Node {
		cs.Target = s.node
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := p.Client.Clone(call, s.template, cs)
	switch {
	case pve.Taken(err, vm.ID):
		return errRaced
	case pve.Lost(err):
		return p.settle(ctx, vm, s.template, spec.Papers.Sandbox, err)
	case err != nil:
		return &step{"clone", err}
	}
	if err := p.intend(ctx, spec, handle{vm.ID, task}); err != nil {
		return p.abandon(ctx, vm, spec, task, err)
	}
	_, err = p.Client.Wait(ctx, task)
	switch {
	case err == nil && ctx.Err() == nil:
		return nil
	case pve.Taken(err, vm.ID), pve.Held(err, vm.ID): // whoever holds the ID's lock has the ID
		return errRaced
	case err == nil:
		err = ctx.Err()
	}
	return p.abandon(ctx, vm, spec, task, &step{"clone", err})
}

// intend records what is about to be made.
func (p *Provisioner) intend(ctx context.Context, spec provisioner.Spec, h handle) error {
	if err := ctx.Err(); err != nil || spec.Intend == nil {
		return err
	}
	if err := spec.Intend(ctx, h.String()); err != nil {
		return fmt.Errorf("record VMID %d: %w", h.id, err)
	}
	return nil
}

// abandon undoes a clone that failed or is not wanted any more, and returns why.
// PVE itself removes what a failed clone has made, so a machine that is there
// without our papers is another's, or waits for an operator.
func (p *Provisioner) abandon(ctx context.Context, vm pve.VM, spec provisioner.Spec, task pve.UPID, why error) error {
	undo, cancel := steady(ctx, p.undo)
	defer cancel()
	if ctx.Err() != nil { // not worth the rest of a full copy; it may end well all the same
		_ = p.Client.AbortTask(undo, task)
	}
	_, err := p.Client.Wait(undo, task)
	if pve.Taken(err, vm.ID) {
		return why
	}
	if err := p.remove(undo, vm, spec.Papers.Sandbox); err != nil && !errors.Is(err, provisioner.ErrNotOurs) {
		return fmt.Errorf("%w; %w: %w", why, errLeft, err)
	}
	return why
}

// settle finds out what became of a clone whose answer was lost: whether there
// is a machine with the papers that the clone was given. While clones of the
// template run, it may be one of them: it is seen only when it joins our pool, at
// its very end, and on another node than the template's only then, too.
func (p *Provisioner) settle(ctx context.Context, vm, template pve.VM, sandbox string, why error) error {
	rest, cancel := steady(ctx, p.undo)
	defer cancel()
	began := time.Now()
	for {
		cloning := p.cloning(rest, template)
		m, err := p.inspect(rest, vm)
		over := time.Since(began) > p.grace && !cloning
		switch {
		case err == nil && m.papers.Sandbox == sandbox:
			return nil
		case err == nil, errors.Is(err, provisioner.ErrNotOurs), errors.Is(err, errHidden) && over:
			return errRaced
		case errors.Is(err, provisioner.ErrNotFound) && over:
			return &step{"clone", why}
		}
		if late := sleep(rest, gracePoll); late != nil {
			return &step{"clone", fmt.Errorf("%w; %w: %w", why, errUnknown, cmp.Or(err, late))}
		}
	}
}

// cloning reports whether clones of a template run, as far as we may see them.
func (p *Provisioner) cloning(ctx context.Context, template pve.VM) bool {
	tasks, err := p.clones(ctx, template)
	return err != nil || len(tasks) > 0
}

// clones returns the clones of a template that run, as far as we may see them.
func (p *Provisioner) clones(ctx context.Context, template pve.VM) ([]pve.UPID, error) {
	return p.tasks(ctx, template, "qmclone")
}

// tasks returns the tasks of some types that work on a VM, as far as we may see them.
func (p *Provisioner) tasks(ctx context.Context, vm pve.VM, types ...string) ([]pve.UPID, error) {
	tasks, err := p.Client.ActiveTasks(ctx, vm.Node)
	return slices.DeleteFunc(tasks, func(t pve.UPID) bool {
		return !slices.Contains(types, t.Type()) || t.ID() != strconv.Itoa(vm.ID)
	}), err
}
