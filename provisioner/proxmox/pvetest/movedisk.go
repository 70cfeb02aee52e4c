package pvetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// moveDisk gives a disk to another VM, or moves it to another storage.
func moveDisk(c *call) (any, error) {
	if c.p.has("storage") && c.p.has("target-vmid") {
		return nil, storageOrTarget("either set 'storage' or 'target-vmid', but not both")
	}
	if c.p.has("target-vmid") {
		return c.reassign()
	}
	if !c.p.has("storage") {
		return nil, storageOrTarget("both 'storage' and 'target-vmid' missing, either needs to be set")
	}
	store := c.p.str("storage")
	if err := c.check("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
		return nil, err
	}
	if _, err := c.movable(); err != nil {
		return nil, err
	}
	return c.fork("qmmove", c.p.str("vmid"), func(j *job) error {
		return j.locked(c.vmid(), func() error { return c.migrateDisk(j, store) })
	})
}

func storageOrTarget(msg string) *apiError {
	return badParams(map[string]string{"storage": msg, "target-vmid": msg})
}

// movable checks a move to another storage, before the task and in it (Qemu.pm
// move_vm_disk load_and_check_move; derived).
func (c *call) movable() (*VM, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	if err := vm.checkLock(); err != nil {
		return nil, err
	}
	key, store := c.p.str("disk"), c.p.str("storage")
	d := parseDrive(key, vm.Config[key])
	have, _ := cutVolume(d.file)
	format := c.p.str("format")
	switch {
	case c.p.has("digest") && c.p.str("digest") != vm.digest():
		return nil, die("%s", modified)
	case vm.Config[key] == "":
		return nil, die("disk '%s' does not exist", key)
	case d.cdrom():
		return nil, die("you can't move a cdrom")
	case have == store && (format == "" || format == formatOf(d.file)):
		return nil, die("you can't move to the same storage with same format")
	}
	_, err = c.storageHere(store)
	return vm, err
}

func (c *call) migrateDisk(j *job, store string) error {
	vm, err := c.movable()
	if err != nil {
		return err
	}
	key := c.p.str("disk")
	d := parseDrive(key, vm.Config[key])
	old := c.s.c.Volumes[d.file]
	if old == nil {
		return die("volume '%s' does not exist", d.file)
	}
	if err := j.spend(); err != nil {
		return err
	}
	format := c.p.str("format")
	if format == "" {
		format = old.Format
	}
	id, err := c.allocate(store, vm, "", old.Size, format)
	if err != nil {
		return err
	}
	moved := d
	moved.file = id
	vm.Config[key] = moved.String()
	if !c.p.flag("delete") {
		vm.addUnused(d.file)
		return nil
	}
	return c.deallocate(vm, key, d.file)
}

const modified = "detected modified configuration - file changed by other user? Try again."

// handover is a disk that goes from one VM to another.
type handover struct {
	*call
	vm, to     *VM
	key, toKey string
}

// reassign checks both VMs at once, and renames in the task.
func (c *call) reassign() (any, error) {
	h := &handover{call: c, key: c.p.str("disk"), toKey: c.p.str("target-disk")}
	if h.toKey == "" {
		h.toKey = h.key
	}
	target := c.p.num("target-vmid")
	if err := c.check(fmt.Sprintf("/vms/%d", target), "VM.Config.Disk"); err != nil {
		return nil, err
	}
	if target == c.vmid() {
		return nil, badParam("target-vmid", "must be different than source VMID to reassign disk")
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	store, _ := cutVolume(parseDrive(h.key, h.vm.Config[h.key]).file)
	if err := c.check("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%d-%s>%d-%s", c.vmid(), h.key, target, h.toKey)
	return c.fork("qmmove", id, func(j *job) error {
		return j.locked(c.vmid(), func() error {
			return j.locked(target, func() error {
				if err := h.check(); err != nil {
					return err
				}
				if err := j.spend(); err != nil {
					return err
				}
				return h.rename(j)
			})
		})
	})
}

// check is Qemu.pm's load_and_check_reassign_configs, in its order.
func (h *handover) check() error {
	h.vm, h.to = h.s.c.VMs[h.vmid()], h.s.c.VMs[h.p.num("target-vmid")]
	switch {
	case h.vm == nil:
		return die("could not find VM %d", h.vmid())
	case h.to == nil:
		return die("could not find target VM %s", h.p.str("target-vmid"))
	case h.vm.Node != h.to.Node:
		return die("Both VMs need to be on the same node (%s != %s)", h.vm.Node, h.to.Node)
	case h.vm.checkLock() != nil:
		return h.vm.checkLock()
	case h.to.checkLock() != nil:
		return h.to.checkLock()
	case h.vm.template() || h.to.template():
		return die("Can't move disks from or to template VMs")
	case h.p.has("digest") && h.p.str("digest") != h.vm.digest():
		return die("VM %d: %s", h.vm.ID, modified)
	case h.p.has("target-digest") && h.p.str("target-digest") != h.to.digest():
		return die("VM %d: %s", h.to.ID, modified)
	}
	return h.checkDisk()
}

func (h *handover) checkDisk() error {
	d := parseDrive(h.key, h.vm.Config[h.key])
	switch {
	case h.vm.Config[h.key] == "":
		return die("Disk '%s' for VM '%d' does not exist", h.key, h.vm.ID)
	case h.to.Config[h.toKey] != "":
		return die("Target disk key '%s' is already in use for VM '%d'", h.toKey, h.to.ID)
	case d.cdrom() && !d.cloudinit():
		return die("CD drive contents can't be moved to another VM")
	case h.vm.snapshotNames(d.file):
		return die("Can't move disk used by a snapshot to another VM")
	case h.vm.Running && !strings.HasPrefix(h.key, "unused"):
		return die("Cannot move disk to another VM while the source VM is running - detach first")
	}
	return nil
}

// rename moves the volume and takes it from the source before the target gets
// it, with the rights of the caller: what fails in between leaves a volume that
// no configuration names (measured).
func (h *handover) rename(j *job) error {
	d := parseDrive(h.key, h.vm.Config[h.key])
	vol := h.s.c.Volumes[d.file]
	j.printf("moving disk '%s' from VM '%d' to '%d'", h.key, h.vm.ID, h.to.ID)
	if vol == nil {
		return die("volume '%s' does not exist", d.file)
	}
	h.s.c.giveVolume(vol, h.to)
	if order := h.vm.bootOrder(); slices.Contains(order, h.key) {
		j.printf("removing disk '%s' from boot order config", h.key)
		h.vm.setBoot(slices.DeleteFunc(order, func(k string) bool { return k == h.key }))
	}
	j.printf("removing disk '%s' from VM '%d' config", h.key, h.vm.ID)
	delete(h.vm.Config, h.key)
	if strings.HasPrefix(h.toKey, "unused") {
		h.to.Config[h.toKey] = vol.ID
		return nil
	}
	d.file = vol.ID
	bus := propertyFormats[strings.TrimRight(h.toKey, "0123456789")].props
	maps.DeleteFunc(d.props, func(k string, _ any) bool { return bus[k] == nil }) // what the bus lacks is lost
	j.printf("update VM %d: -%s %s", h.to.ID, h.toKey, d)
	ch := &change{set: map[string]string{h.toKey: d.String()}}
	if err := h.changePermitted(h.to, ch); err != nil {
		return err
	}
	return h.applyChange(h.to, ch)
}

// giveVolume renames a volume to the next of another VM; a linked clone keeps
// its base.
func (c *Cluster) giveVolume(vol *Volume, to *VM) {
	delete(c.Volumes, vol.ID)
	name := fmt.Sprintf("%d/vm-%d-%s.%s", to.ID, to.ID, c.freeName(to.ID), vol.Format)
	if vol.Parent == "" {
		vol.ID = vol.Storage + ":" + name
	} else {
		vol.ID = vol.Parent + "/" + name
	}
	vol.VMID = to.ID
	c.Volumes[vol.ID] = vol
}
