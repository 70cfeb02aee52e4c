package template

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// look finds what there is of this template, finished or not, and removes what
// can't be gone on with.
func (r *build) look(ctx context.Context) (string, error) {
	if err := r.awaitCreations(ctx); err != nil {
		return "", err
	}
	all, err := r.Client.Resources(ctx, "vm")
	if err != nil {
		return "", err
	}
	for _, res := range all {
		vm := res.VM()
		// What was made just now has no name yet in what the cluster says.
		suspect := res.Type == "qemu" && res.Node == r.spec.Node &&
			(string(res.Name) == r.spec.Name || res.Name == "" || slices.Contains(pve.SplitTags(string(res.Tags)), buildTag))
		if !suspect && vm.ID != r.spec.VMID {
			continue
		}
		if err := r.consider(ctx, res); err != nil {
			return "", err
		}
	}
	switch {
	case r.done: // the files may be left if an earlier build was killed at its very end
		return fmt.Sprintf("%s is this template", r.vm), r.sweep(ctx)
	case r.vm.ID != 0:
		return fmt.Sprintf("goes on with %s, which is %s", r.vm, r.phase), nil
	}
	return "there is no such template yet", nil
}

// consider decides what a machine is to this build.
func (r *build) consider(ctx context.Context, res pve.Resource) error {
	vm := res.VM()
	if res.Type != "qemu" {
		return fmt.Errorf("VMID %d is taken by a container: choose another", vm.ID)
	}
	cfg, err := r.Client.Config(ctx, vm)
	if pve.Gone(err, vm) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read machine %s: %w", vm, err)
	}
	p, ours := open(r.Key, vm.ID, cfg)
	switch {
	case ours && p.phase != whole:
		return r.resume(ctx, vm, p)
	case ours && p.name == r.spec.Name && p.recipe == r.recipe:
		r.vm, r.phase, r.done = vm, whole, true
		return nil
	case ours && p.name == r.spec.Name:
		return fmt.Errorf("machine %s is a template %s that was built otherwise: choose another name, or remove it first", vm, p.name)
	case cfg["name"] == r.spec.Name:
		return fmt.Errorf("machine %s is called %s and is not ours: choose another name", vm, r.spec.Name)
	case vm.ID == r.spec.VMID:
		return fmt.Errorf("VMID %d is taken by machine %q, which is not ours: choose another", vm.ID, cfg["name"])
	}
	return nil
}

// resume goes on with what a build that was interrupted has left, if that can
// be: cloud-init runs a script once, so a machine that was switched off in the
// middle of its first boot is made anew.
func (r *build) resume(ctx context.Context, vm pve.VM, p papers) error {
	unlocked, err := r.settle(ctx, vm)
	if err != nil {
		return err
	}
	wanted := vm.Node == r.spec.Node && p.name == r.spec.Name && p.recipe == r.recipe && (r.spec.VMID == 0 || r.spec.VMID == vm.ID)
	if wanted && r.vm.ID == 0 && (p.phase == clean || unlocked.Running()) {
		r.vm, r.phase = vm, p.phase
		return nil
	}
	return r.remove(ctx, vm)
}

// settle awaits what is under way with a machine.
func (r *build) settle(ctx context.Context, vm pve.VM) (pve.Status, error) {
	tasks, err := r.Client.ActiveTasks(ctx, vm.Node)
	if err != nil {
		return pve.Status{}, err
	}
	for _, t := range tasks {
		if t.ID() == strconv.Itoa(vm.ID) {
			if _, err := r.Client.Wait(ctx, t); ctx.Err() != nil {
				return pve.Status{}, err
			}
		}
	}
	return r.Client.Status(ctx, vm)
}

// awaitCreations waits for machines that are just being made: until that is
// done their configuration does not say whose they are. A download of ours that
// is under way would only be made twice.
func (r *build) awaitCreations(ctx context.Context) error {
	tasks, err := r.Client.ActiveTasks(ctx, r.spec.Node)
	if err != nil {
		return err
	}
	name, err := r.imageName(false)
	kept, kerr := r.imageName(true)
	if err := errors.Join(err, kerr); err != nil {
		return err
	}
	for _, t := range tasks {
		if t.Type() != "qmcreate" && (t.Type() != "download" || t.ID() != name && t.ID() != kept) {
			continue
		}
		if _, err := r.Client.Wait(ctx, t); ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// errNotOurs: a machine does not say that it is ours, or does no longer.
var errNotOurs = errors.New("it does not say that AgentLab is building it")

// remove destroys a machine that is being built, if it still says so. When the
// answer was lost all is looked at anew: its VMID may be another's by then.
func (r *build) remove(ctx context.Context, vm pve.VM) error {
	err := r.removeOnce(ctx, vm)
	for try := 1; pve.Lost(err) && try < 3; try++ {
		err = r.removeOnce(ctx, vm)
	}
	if err != nil && !pve.Gone(err, vm) {
		return fmt.Errorf("remove machine %s: %w", vm, err)
	}
	return nil
}

// removeOnce looks whose the machine is a second time once it is off: stopping
// takes a while, and a VMID that is free is handed out again at once.
func (r *build) removeOnce(ctx context.Context, vm pve.VM) error {
	status, err := r.settle(ctx, vm)
	if err != nil {
		return err
	}
	if err := r.claim(ctx, vm); err != nil {
		return err
	}
	if status.Running() {
		id, err := r.Client.Stop(ctx, vm, pve.StopOptions{OverruleShutdown: true})
		if err := r.await(ctx, id, err); err != nil {
			return fmt.Errorf("stop it: %w", err)
		}
		if err := r.claim(ctx, vm); err != nil {
			return err
		}
	}
	id, err := r.Client.Delete(ctx, vm)
	return r.await(ctx, id, err)
}

// claim returns nil if a machine says that we are building it.
func (r *build) claim(ctx context.Context, vm pve.VM) error {
	cfg, err := r.Client.Config(ctx, vm)
	if err != nil {
		return err
	}
	if p, ours := open(r.Key, vm.ID, cfg); !ours || p.phase == whole {
		return errNotOurs
	}
	return nil
}
