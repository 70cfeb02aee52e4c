package pvetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// destroyVM refuses a running VM at once.
func destroyVM(c *call) (any, error) {
	if err := c.rootOnly("skiplock"); err != nil {
		return nil, err
	}
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	switch {
	case vm.Config["protection"] == "1":
		return nil, die("can't remove VM %d - protection mode enabled", vm.ID)
	case vm.Running:
		return nil, die("VM %d is running - destroy failed", vm.ID)
	}
	id := vm.ID
	return c.fork("qmdestroy", strconv.Itoa(id), func(j *job) error {
		return j.locked(id, func() error { return c.destroy(j) })
	})
}

func (c *call) destroy(j *job) error {
	vm, err := c.vm()
	if err != nil {
		return err
	}
	if !c.p.flag("skiplock") && vm.Config["lock"] != "suspended" {
		if err := vm.checkLock(); err != nil {
			return err
		}
	}
	if vm.Running {
		return die("VM %d is running - destroy failed", vm.ID)
	}
	if base := c.s.c.usedBase(vm); base != "" {
		return die("base volume '%s' is still in use by linked cloned", base)
	}
	if err := j.spend(); err != nil {
		return err
	}
	if c.s.Destroyed != nil {
		c.s.unlocked(func() { c.s.Destroyed(vm.ID) })
	}
	if c.p.flag("purge") {
		j.printf("purging VM %d from related configurations..", vm.ID)
		c.s.c.purgeBackups(vm.ID)
	}
	c.freeDisks(j, vm)
	if c.p.flag("destroy-unreferenced-disks") { // looks at all that have images (Storage.pm vdisk_list)
		for _, st := range c.s.c.Storages {
			if st.on(vm.Node) && strings.Contains(st.Content, "images") {
				if err := st.activate(); err != nil {
					return err
				}
			}
		}
		c.s.c.removeVolumes(vm.ID)
	}
	delete(c.s.c.VMs, vm.ID)
	delete(c.s.c.Firewall, strconv.Itoa(vm.ID))
	if pool := c.s.c.Pools[c.s.c.poolOf(vm.ID)]; pool != nil {
		delete(pool.VMs, vm.ID)
	}
	c.s.c.dropACL(fmt.Sprintf("/vms/%d", vm.ID))
	return nil
}

// freeDisks removes the disks that the config names, as far as they can be
// (QemuServer.pm destroy_vm).
func (c *call) freeDisks(j *job, vm *VM) {
	for _, v := range vm.Config {
		vol := c.s.c.Volumes[parseDrive("", v).file]
		if vol == nil || vol.VMID != vm.ID {
			continue
		}
		if st := c.s.c.storage(vol.Storage); st != nil && st.Away { // only a warning (QemuServer.pm destroy_vm)
			j.printf("WARN: Could not remove disk '%s', check manually: storage '%s' is not online", vol.ID, st.ID)
			continue
		}
		if vol.Busy {
			j.warn(fmt.Sprintf("Could not remove disk '%s', check manually: zfs error: cannot destroy '%s': dataset is busy", vol.ID, vol.ID))
			continue
		}
		c.s.c.freeVolume(vol.ID)
	}
}

// usedBase is a base volume of vm that linked clones are made of.
func (c *Cluster) usedBase(vm *VM) string {
	for _, v := range c.Volumes {
		if base := c.Volumes[v.Parent]; base != nil && base.VMID == vm.ID && v.VMID != vm.ID {
			return base.ID
		}
	}
	return ""
}

func (c *Cluster) dropACL(path string) {
	kept := c.ACL[:0]
	for _, a := range c.ACL {
		if a.Path != path {
			kept = append(kept, a)
		}
	}
	c.ACL = kept
}

// createVM makes a VM from nothing, or from an image.
func createVM(c *call) (any, error) {
	id := c.vmid()
	base := "/vms/" + strconv.Itoa(id)
	if pool := c.p.str("pool"); pool != "" {
		if c.s.c.Pools[pool] == nil {
			return nil, denied("pool '" + pool + "' does not exist")
		}
		if !c.allowed("/pool/"+pool, "VM.Allocate") && !c.allowed(base, "VM.Allocate") {
			return nil, denied("")
		}
	} else if err := c.check(base, "VM.Allocate"); err != nil {
		return nil, err
	}
	if old := c.s.c.VMs[id]; old != nil {
		return nil, die("unable to create VM %d - VM %d already exists on node '%s'", id, id, old.Node)
	}
	ch, err := c.readChange()
	if err != nil {
		return nil, err
	}
	vm := &VM{ID: id, Node: c.node.Name, Config: map[string]string{}, Pending: map[string]string{}, Deleted: map[string]bool{}}
	if err := c.changePermitted(vm, ch); err != nil {
		return nil, err
	}
	if err := c.drivesAccessible(id, ch); err != nil {
		return nil, err
	}
	return c.fork("qmcreate", strconv.Itoa(id), func(j *job) error {
		return j.locked(id, func() error { return c.create(j, vm, ch) })
	})
}

// bootable is what a VM is booted from unless that is said: its first disk, its
// first CD-ROM and its first network card (QemuServer.pm get_default_bootdevices).
func (vm *VM) bootable() (order []string) {
	var disk, cdrom, nic string
	for _, k := range slices.Sorted(maps.Keys(vm.Config)) {
		d := parseDrive(k, vm.Config[k])
		switch {
		case netKey.MatchString(k):
			nic = cmp.Or(nic, k)
		case !driveKey.MatchString(k):
		case d.cdrom():
			cdrom = cmp.Or(cdrom, k)
		default:
			disk = cmp.Or(disk, k)
		}
	}
	return slices.DeleteFunc([]string{disk, cdrom, nic}, func(k string) bool { return k == "" })
}

// bootOrder are the devices a VM is booted from.
func (vm *VM) bootOrder() []string {
	_, order, _ := strings.Cut(vm.Config["boot"], "order=")
	return strings.FieldsFunc(order, func(r rune) bool { return r == ';' })
}

// setBoot writes no devices as a blank (measured).
func (vm *VM) setBoot(order []string) {
	vm.Config["boot"] = " "
	if len(order) > 0 {
		vm.Config["boot"] = "order=" + strings.Join(order, ";")
	}
}

func (c *call) create(j *job, vm *VM, ch *change) error {
	if c.s.c.VMs[vm.ID] != nil {
		return die("unable to create VM %d: config file already exists", vm.ID)
	}
	vm.born = time.Now()
	vm.Config["lock"] = "create"
	c.s.c.VMs[vm.ID] = vm
	err := j.spend()
	if err == nil {
		err = c.applyChange(vm, ch)
	}
	if err != nil {
		if !j.killed() {
			c.s.c.removeVolumes(vm.ID)
			delete(c.s.c.VMs, vm.ID)
		}
		return err
	}
	delete(vm.Config, "lock")
	if vm.Config["boot"] == "" {
		vm.setBoot(vm.bootable())
	}
	for k, v := range map[string]string{"smbios1": "uuid=" + newUUID(), "vmgenid": newUUID(), "meta": fmt.Sprintf("creation-qemu=9.2.0,ctime=%d", time.Now().Unix())} {
		if vm.Config[k] == "" {
			vm.Config[k] = v
		}
	}
	if pool := c.s.c.Pools[c.p.str("pool")]; pool != nil {
		pool.VMs[vm.ID] = true
	}
	if c.p.flag("start") {
		return c.start(j, vm)
	}
	return nil
}

// makeTemplate converts a VM.
func makeTemplate(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	if err := vm.checkLock(); err != nil {
		return nil, err
	}
	switch {
	case len(vm.Snapshots) > 0:
		return nil, die("unable to create template, because VM contains snapshots")
	case vm.template() && !c.p.has("disk"):
		return nil, die("you can't convert a template to a template")
	case vm.Running:
		return nil, die("you can't convert a VM to template if VM is running")
	}
	return c.fork("qmtemplate", strconv.Itoa(vm.ID), func(j *job) error {
		return j.locked(vm.ID, func() error {
			if err := j.spend(); err != nil {
				return err
			}
			vm.Config["template"] = "1"
			for k, v := range vm.Config {
				d := parseDrive(k, v)
				vol := c.s.c.Volumes[d.file]
				if !driveKey.MatchString(k) || d.cdrom() || vol == nil {
					continue
				}
				delete(c.s.c.Volumes, vol.ID)
				vol.ID = strings.Replace(vol.ID, fmt.Sprintf("vm-%d-", vm.ID), fmt.Sprintf("base-%d-", vm.ID), 1)
				c.s.c.Volumes[vol.ID] = vol
				d.file = vol.ID
				vm.Config[k] = d.String()
			}
			return nil
		})
	})
}
