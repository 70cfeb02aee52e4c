package proxmox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// adopt returns the running machine of a sandbox. It removes what is left of
// one that does not run, and returns ErrNotFound when there is nothing (any more).
func (p *Provisioner) adopt(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	sandbox := spec.Papers.Sandbox
	vms, err := p.begun(ctx, spec)
	if err != nil {
		return provisioner.Machine{}, err
	}
	var left []pve.VM
	for _, vm := range vms {
		m, err := p.inspect(ctx, vm)
		switch {
		case errors.Is(err, provisioner.ErrNotFound), errors.Is(err, provisioner.ErrNotOurs), err == nil && m.papers.Sandbox != sandbox:
			continue // it was changed since it was listed
		case err != nil: // it may well run
			return provisioner.Machine{}, err
		case m.stage == whole:
			runs, err := p.runsOn(ctx, vm)
			if err != nil {
				return provisioner.Machine{}, err
			}
			if runs {
				return p.describe(vm, m.papers, true), nil
			}
		}
		left = append(left, vm)
	}
	for _, vm := range left {
		if err := p.remove(ctx, vm, sandbox); err != nil {
			return provisioner.Machine{}, fmt.Errorf("remove what an earlier attempt left: %w", err)
		}
	}
	return provisioner.Machine{}, provisioner.ErrNotFound
}

// runsOn says that a machine runs and will. An earlier process that was about to
// undo it may have left a task that ends it.
func (p *Provisioner) runsOn(ctx context.Context, vm pve.VM) (bool, error) {
	ending, err := p.tasks(ctx, vm, "qmstop", "qmshutdown")
	for _, task := range ending {
		if err == nil {
			err = p.awaited(ctx, task)
		}
	}
	if err != nil {
		return false, err
	}
	s, err := p.Client.Status(ctx, vm)
	return s.Running(), err
}

// awaited waits for a task that an earlier process began. How it ended shows in
// what it left.
func (p *Provisioner) awaited(ctx context.Context, task pve.UPID) error {
	_, err := p.Client.Wait(ctx, task)
	var failed *pve.Error
	if errors.As(err, &failed) && (failed.Task != "" || failed.Kind == pve.NotFound) {
		return nil
	}
	return err
}

// begun returns the machines that bear a sandbox's papers, once a clone that was
// recorded for it has ended.
func (p *Provisioner) begun(ctx context.Context, spec provisioner.Spec) ([]pve.VM, error) {
	if _, err := p.glance(ctx); err != nil {
		return nil, err
	}
	vms := p.all(spec.Papers.Sandbox)
	if spec.Handle == "" {
		return vms, nil
	}
	h, err := p.landed(ctx, spec.Handle)
	if err == nil && h.task == "" {
		err = p.landedUnnamed(ctx, spec, h.id)
	}
	if err != nil {
		return nil, err
	}
	m, err := p.locate(ctx, h.id)
	switch {
	case errors.Is(err, provisioner.ErrNotFound), errors.Is(err, provisioner.ErrNotOurs):
	case err != nil: // it may well be there
		return nil, fmt.Errorf("what an earlier attempt left: %w", err)
	case m.papers.Sandbox == spec.Papers.Sandbox && !slices.Contains(vms, m.vm):
		vms = append(vms, m.vm)
	}
	return vms, nil
}

// landed waits until a clone that an earlier process began has ended. Tasks of
// a node that has left the cluster have ended with it.
func (p *Provisioner) landed(ctx context.Context, recorded string) (handle, error) {
	h, err := parseHandle(recorded)
	if err != nil || h.task == "" {
		return h, err
	}
	if inv, err := p.glance(ctx); err == nil && len(inv.nodes) > 0 && inv.nodes[h.task.Node()].Node == "" {
		return h, nil
	}
	return h, p.awaited(ctx, h.task)
}

// landedUnnamed is landed for a clone of which no task was recorded, for we died
// before we had its answer or before that was kept. It can't be seen until it
// ends: until then the ID looks like another's, and a second machine would be
// made. It is one of the clones of the template that run now, or that begin
// within the grace of a call that is on its way; those that begin later are not
// waited for.
func (p *Provisioner) landedUnnamed(ctx context.Context, spec provisioner.Spec, id int) error {
	inv, err := p.glance(ctx)
	if err != nil {
		return err
	}
	root, err := p.parseRoot(spec.Root)
	if err != nil {
		return err
	}
	began, mayBe := time.Now(), map[pve.UPID]bool{}
	for {
		young := time.Since(began) <= p.grace
		waits := young
		for _, template := range p.matching(inv, root) {
			clones, err := p.clones(ctx, template.VM())
			waits = waits || err != nil
			for _, task := range clones {
				mayBe[task] = mayBe[task] || young
				waits = waits || mayBe[task]
			}
		}
		_, err := p.locate(ctx, id)
		gone := errors.Is(err, provisioner.ErrNotFound)
		if !gone && !errors.Is(err, errCloning) || gone && !waits {
			return nil // what it is, is seen by whoever looks next
		}
		if err := sleep(ctx, gracePoll); err != nil {
			return fmt.Errorf("wait for the clone to VMID %d: %w", id, err)
		}
	}
}
