package proxmox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Destroy implements [provisioner.Provisioner]. Besides the machine that ref
// names it removes what else bears the sandbox's papers: a clone whose answer
// was lost may have come into being after all.
func (p *Provisioner) Destroy(ctx context.Context, ref provisioner.Ref) error {
	p.init()
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.destroy(ctx, ref); err != nil {
		return fmt.Errorf("destroy %s: %w", ref.Sandbox, sentinel(p.advise(err)))
	}
	return nil
}

func (p *Provisioner) destroy(ctx context.Context, ref provisioner.Ref) error {
	var errs []error
	if _, err := p.glance(ctx); err != nil {
		errs = append(errs, err)
	}
	if ref.Handle != "" {
		if _, err := p.landed(ctx, ref.Handle); err != nil {
			return err
		}
	}
	m, err := p.find(ctx, ref)
	vms := p.all(ref.Sandbox)
	switch {
	case err == nil && !slices.Contains(vms, m.vm):
		vms = append(vms, m.vm)
	case errors.Is(err, errCloning):
		errs = append(errs, fmt.Errorf("%w, or a clone was cut short; if that lasts, run on its node: qm unlock %[2]d && qm destroy %[2]d --purge --destroy-unreferenced-disks: %[3]w",
			err, m.vm.ID, provisioner.ErrUnavailable))
	case err != nil && !errors.Is(err, provisioner.ErrNotFound):
		errs = append(errs, err)
	}
	for _, vm := range vms {
		if err := p.remove(ctx, vm, ref.Sandbox); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Trim implements [provisioner.Trimmer]. Spare is a draft beside a whole machine.
func (p *Provisioner) Trim(ctx context.Context, ref provisioner.Ref) error {
	p.init()
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.find(ctx, ref)
	switch {
	case errors.Is(err, provisioner.ErrNotFound):
		return nil
	case err == nil && (m.stage != draft || !p.hasWhole(ref.Sandbox)):
		err = fmt.Errorf("VM %s is not spare: %w", m.vm, provisioner.ErrNotOurs)
	case err == nil:
		err = p.remove(ctx, m.vm, ref.Sandbox)
	}
	if err != nil {
		return fmt.Errorf("remove the spare machine of %s: %w", ref.Sandbox, sentinel(err))
	}
	return nil
}

// halts is how often a machine is stopped that is found running again: one that
// is managed by HA stops some time after its stop task has ended
// (PVE/API2/Qemu.pm, hastop).
const halts = 8

// remove removes the machine of a sandbox and awaits its end.
func (p *Provisioner) remove(ctx context.Context, vm pve.VM, sandbox string) error {
	var err error
	for range halts {
		if err = p.removeOnce(ctx, vm, sandbox); !errors.Is(err, pve.Running) {
			break
		}
		if sleep(ctx, p.grace) != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, provisioner.ErrNotFound) {
		return err
	}
	p.bury(vm)
	if len(p.all(sandbox)) == 0 { // else its guest is still there
		p.ways.forget(sandbox)
		p.switches.forget(sandbox)
	}
	return nil
}

// removeOnce looks at the papers twice, the second time just before the machine
// is deleted: stopping takes a while, and a VMID that is free is handed out
// again at once.
func (p *Provisioner) removeOnce(ctx context.Context, vm pve.VM, sandbox string) error {
	m, err := p.claim(ctx, vm, sandbox)
	if err == nil {
		err = p.unprotect(ctx, m)
	}
	if err == nil {
		err = p.stop(ctx, m.vm) // a draft, too: somebody may have started it, or its node
	}
	if err == nil {
		m, err = p.claim(ctx, m.vm, sandbox)
	}
	if err != nil {
		return err
	}
	return p.delete(ctx, m)
}

// unprotect takes a protection away that a clone has from its template. One
// that a whole machine has was given to it by somebody.
func (p *Provisioner) unprotect(ctx context.Context, m live) error {
	switch {
	case m.cfg["protection"] != "1":
		return nil
	case m.stage == whole:
		return fmt.Errorf("VM %s is protected, so somebody wants it kept; to let it be destroyed, run on its node: qm set %d --protection 0: %w",
			m.vm, m.vm.ID, provisioner.ErrUnavailable)
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	return p.Client.SetConfig(call, m.vm, pve.Change{Delete: []string{"protection"}, Digest: m.cfg.Digest()})
}

// claim inspects a machine that must be of that sandbox.
func (p *Provisioner) claim(ctx context.Context, vm pve.VM, sandbox string) (live, error) {
	m, err := p.inspect(ctx, vm)
	if errors.Is(err, errHidden) { // migrated, or not ours to see
		m, err = p.locate(ctx, vm.ID)
	}
	if err == nil && m.papers.Sandbox != sandbox {
		err = fmt.Errorf("VM %d has the papers of %s: %w", vm.ID, m.papers.Sandbox, provisioner.ErrNotOurs)
	}
	return m, err
}

// stop switches a machine off; one that is off already is fine.
func (p *Provisioner) stop(ctx context.Context, vm pve.VM) error {
	call, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := p.Client.Stop(call, vm, pve.StopOptions{OverruleShutdown: true})
	if pve.Lost(err) {
		err = nil // the delete will say whether it is off
	} else if err == nil {
		_, err = p.Client.Wait(ctx, task)
	}
	return p.unlessGone(call, vm, err, "stop")
}

// delete deletes a machine with its volumes. One that was started to the end names
// them all in its config: what else bears its ID is somebody's, who kept it of a
// machine that had the ID before. Of a clone that was cut short some may be named
// nowhere.
func (p *Provisioner) delete(ctx context.Context, m live) error {
	call, cancel := steady(ctx, callTime)
	defer cancel()
	var err error
	if m.stage == whole {
		err = p.deleteNamed(ctx, m, false)
	} else {
		var begun bool
		begun, err = p.deletion(ctx, m.vm, p.Client.Delete)
		if errors.Is(err, pve.StorageAway) || errors.Is(err, pve.Failed) && begun { // not all that are away are named
			err = withReason(p.deleteNamed(ctx, m, true), err)
		}
	}
	return p.unlessGone(call, m.vm, err, "delete")
}

// withReason adds to err, unless it is nil, what went wrong before.
func withReason(err, before error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; %w", before, err)
}

// deletion deletes a machine by a call of the client's and says whether that was
// begun.
func (p *Provisioner) deletion(ctx context.Context, vm pve.VM, call func(context.Context, pve.VM) (pve.UPID, error)) (begun bool, err error) {
	ctx, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := call(ctx, vm)
	if err == nil {
		err = p.deleted(ctx, vm, task)
	}
	if pve.Lost(err) { // it may be under way
		for range halts {
			if m := p.missing(ctx, vm, err); errors.Is(m, provisioner.ErrNotFound) || sleep(ctx, gracePoll) != nil {
				break
			}
		}
	}
	return task != "", err
}

// deleteNamed deletes a machine and the volumes that its config names. Proxmox
// does so though the storage of a volume is away, which then is left for ever, so
// all are asked first for what bears the machine's ID. What is named nowhere is
// made the machine's before if it is to go, too.
func (p *Provisioner) deleteNamed(ctx context.Context, m live, all bool) error {
	call, cancel := steady(ctx, callTime)
	defer cancel()
	named := m.cfg.Volumes()
	var unnamed []string
	for _, storage := range m.cfg.Storages() {
		volumes, err := p.Client.Volumes(call, m.vm.Node, storage, "images", m.vm.ID)
		if errors.Is(err, pve.Permission) { // somebody has moved a disk there
			continue
		}
		if err != nil {
			return fmt.Errorf("look for its disks on storage %s: %w", storage, err)
		}
		for _, v := range volumes {
			if !slices.Contains(named, v.ID) {
				unnamed = append(unnamed, v.ID)
			}
		}
	}
	switch {
	case len(unnamed) == 0:
	case all:
		if err := p.attach(call, m, unnamed); err != nil {
			return fmt.Errorf("attach disks that its config does not name: %w", err)
		}
	default:
		p.log.WarnContext(ctx, "disks are left alone that bear the ID of a machine of ours and are not its", "vm", m.vm, "volumes", unnamed)
	}
	_, err := p.deletion(ctx, m.vm, p.Client.DeleteReferenced)
	return err
}

// attach puts volumes into a machine's config.
func (p *Provisioner) attach(ctx context.Context, m live, volumes []string) error {
	ch := pve.Change{Set: map[string]string{}, Digest: m.cfg.Digest()}
	slot := 0
	for _, v := range volumes {
		for m.cfg[scsi(slot)] != "" {
			slot++
		}
		ch.Set[scsi(slot)] = v
		slot++
	}
	return p.Client.SetConfig(ctx, m.vm, ch)
}

// deleted awaits the end of a machine. That a disk could not be removed, such as
// one that is busy, is but a warning of the task (PVE/QemuServer.pm destroy_vm);
// nothing is left then that would let us remove it, so an operator is told.
func (p *Provisioner) deleted(ctx context.Context, vm pve.VM, task pve.UPID) error {
	t, err := p.Client.Wait(ctx, task)
	if err != nil || !strings.HasPrefix(t.Exit, "WARNINGS") {
		return err
	}
	said, err := p.Client.TaskLog(ctx, task, 20)
	said = slices.DeleteFunc(said, func(line string) bool { return !strings.HasPrefix(line, "WARN") })
	p.log.WarnContext(ctx, "a machine is gone, but not all of it may be; what is left can be removed on its node with: pvesm free VOLUME",
		"vm", vm, "said", strings.Join(said, "; "), "err", err)
	return nil
}

func scsi(n int) string { return "scsi" + strconv.Itoa(n) }

// unlessGone turns a failure into ErrNotFound if there is no such machine (any
// more), which after a lost answer, too, is all that matters.
func (p *Provisioner) unlessGone(ctx context.Context, vm pve.VM, err error, what string) error {
	if err == nil {
		return nil
	}
	if pve.Gone(err, vm) || errors.Is(err, pve.Permission) || pve.Lost(err) {
		if m := p.missing(ctx, vm, err); errors.Is(m, provisioner.ErrNotFound) {
			return m
		}
	}
	if errors.Is(err, pve.Locked) {
		err = fmt.Errorf("%w; it can go when what has locked it ends; if nothing has, run on its node: qm unlock %d", err, vm.ID)
	}
	return fmt.Errorf("%s VM %s: %w", what, vm, err)
}
