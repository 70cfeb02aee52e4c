package pvetest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// diskKeys are the names a disk may have, as the enumerations of the API list
// them.
func diskKeys(unused bool) string {
	var keys []string
	for _, bus := range []struct {
		name string
		n    int
	}{{"ide", 4}, {"scsi", 31}, {"virtio", 16}, {"sata", 6}, {"efidisk", 1}, {"tpmstate", 1}} {
		for i := range bus.n {
			keys = append(keys, bus.name+strconv.Itoa(i))
		}
	}
	for i := range 256 {
		if unused {
			keys = append(keys, "unused"+strconv.Itoa(i))
		}
	}
	return strings.Join(keys, "/")
}

func diskRoutes() []*route {
	const digest = " digest=string,len=40"
	return []*route{
		{method: "PUT", path: vmPath + "/resize", call: resizeDisk, daemon: true, perm: "/vms/{vmid} VM.Config.Disk",
			params: "skiplock=bool disk!=enum:" + diskKeys(false) + ` size!=re:\+?\d+(\.\d+)?[KMGT]?` + digest},
		{method: "PUT", path: vmPath + "/unlink", call: unlinkDisks, daemon: true, perm: "/vms/{vmid} VM.Config.Disk",
			params: "idlist!=configid-list force=bool"},
		{method: "POST", path: vmPath + "/move_disk", call: moveDisk, daemon: true, perm: "/vms/{vmid} VM.Config.Disk",
			params: "disk!=enum:" + diskKeys(true) + " target-disk=enum:" + diskKeys(true) + " target-vmid=vmid storage=storage-id" +
				" format=enum:raw/qcow2/vmdk delete=bool bwlimit=int,min=0 target-digest=string,len=40" + digest},
	}
}

// resizeDisk finds everything wrong only in its task.
func resizeDisk(c *call) (any, error) {
	if err := c.rootOnly("skiplock"); err != nil {
		return nil, err
	}
	key := c.p.str("disk")
	return c.fork("resize", strconv.Itoa(c.vmid()), func(j *job) error {
		return j.locked(c.vmid(), func() error {
			vm, err := c.vm()
			if err != nil {
				return err
			}
			if d := c.p.str("digest"); d != "" && d != vm.digest() {
				return die("checksum mismatch (file change by other user?)")
			}
			if err := vm.checkLock(); err != nil {
				return err
			}
			if vm.Config[key] == "" {
				return die("disk '%s' does not exist", key)
			}
			return c.resize(j, vm, key)
		})
	})
}

func (c *call) resize(j *job, vm *VM, key string) error {
	d := parseDrive(key, vm.Config[key])
	if d.cdrom() {
		return die("you can't resize a cdrom")
	}
	vol := c.s.c.Volumes[d.file]
	if vol == nil {
		return die("volume '%s' does not exist", d.file)
	}
	size := c.p.str("size")
	want := parseSize(strings.TrimPrefix(size, "+"))
	if strings.HasPrefix(size, "+") {
		want += vol.Size
	}
	switch {
	case want < vol.Size:
		return die("shrinking disks is not supported")
	case want == vol.Size:
		return nil
	case strings.HasPrefix(path.Base(vol.ID), "base-"): // it is read-only
		file := volumePath(vol.ID)
		j.printf("qemu-img: Could not open '%[1]s': Could not open '%[1]s': Operation not permitted", file)
		return die("command '/usr/bin/qemu-img resize -f %s %s %d' failed: exit code 1", vol.Format, file, want)
	}
	if st := c.s.c.storage(vol.Storage); st != nil && st.Full {
		return die("command '/usr/bin/qemu-img resize' failed: exit code 1")
	}
	if err := j.spend(); err != nil {
		return err
	}
	j.print("Image resized.")
	vol.Size = want
	d.set("size", sizeText(want))
	vm.Config[key] = d.String()
	return nil
}

func unlinkDisks(c *call) (any, error) {
	c.p["delete"] = c.p.str("idlist")
	return c.updateConfig(false)
}

// moveDisk gives a disk to another VM, or moves it to another storage.
func moveDisk(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	key, target := c.p.str("disk"), c.p.num("target-vmid")
	switch {
	case c.p.has("storage") && c.p.has("target-vmid"):
		return nil, badParam("target-vmid", "either set 'storage' or 'target-vmid', but not both")
	case target == vm.ID:
		return nil, badParam("target-vmid", "must be different than source VMID to reassign disk")
	case c.p.has("target-vmid"):
		return c.reassign(vm, key, target)
	case !c.p.has("storage"):
		return nil, badParam("storage", "both 'storage' and 'target-vmid' missing, either needs to be set")
	}
	store := c.p.str("storage")
	if err := c.check("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
		return nil, err
	}
	return c.fork("qmmove", strconv.Itoa(vm.ID), func(j *job) error {
		return j.locked(vm.ID, func() error { return c.migrateDisk(j, vm, key, store) })
	})
}

func (c *call) migrateDisk(j *job, vm *VM, key, store string) error {
	if vm.Config[key] == "" {
		return die("disk '%s' does not exist", key)
	}
	d := parseDrive(key, vm.Config[key])
	old := c.s.c.Volumes[d.file]
	if old == nil {
		return die("volume '%s' does not exist", d.file)
	}
	if err := j.spend(); err != nil {
		return err
	}
	id, err := c.allocate(store, vm, "", old.Size, old.Format)
	if err != nil {
		return err
	}
	if c.p.flag("delete") {
		c.s.c.freeVolume(d.file)
	} else {
		vm.addUnused(d.file)
	}
	d.file = id
	vm.Config[key] = d.String()
	return nil
}

// reassign checks both VMs at once, and renames in the task.
func (c *call) reassign(vm *VM, key string, target int) (any, error) {
	to := c.s.c.VMs[target]
	toKey := c.p.str("target-disk")
	if toKey == "" {
		toKey = key
	}
	if err := c.check(fmt.Sprintf("/vms/%d", target), "VM.Config.Disk"); err != nil {
		return nil, err
	}
	if err := c.reassignable(vm, to, key, toKey, target); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%d-%s>%d-%s", vm.ID, key, target, toKey)
	return c.fork("qmmove", id, func(j *job) error {
		return j.locked(vm.ID, func() error {
			return j.locked(target, func() error {
				if err := c.reassignable(vm, to, key, toKey, target); err != nil {
					return err
				}
				if err := j.spend(); err != nil {
					return err
				}
				return c.rename(vm, to, key, toKey)
			})
		})
	})
}

func (c *call) reassignable(vm, to *VM, key, toKey string, target int) error {
	switch {
	case to == nil:
		return noConfig(c.node.Name, target)
	case vm.template():
		return die("Moving disks from a template is not supported")
	case vm.checkLock() != nil:
		return vm.checkLock()
	case to.checkLock() != nil:
		return to.checkLock()
	case vm.Config[key] == "":
		return die("Disk '%s' for VM '%d' does not exist", key, vm.ID)
	case to.Config[toKey] != "":
		return die("Target disk key '%s' is already in use for VM '%d'", toKey, target)
	case vm.Running && !strings.HasPrefix(key, "unused"):
		return die("Cannot move disk to another VM while the source VM is running - detach first")
	}
	return nil
}

// rename moves the volume first and the configuration lines after it: what
// fails in between leaves a volume that no line names (measured).
func (c *call) rename(vm, to *VM, key, toKey string) error {
	d := parseDrive(key, vm.Config[key])
	vol := c.s.c.Volumes[d.file]
	if vol == nil {
		return die("volume '%s' does not exist", d.file)
	}
	delete(vm.Config, key)
	id, err := c.allocate(vol.Storage, to, "", vol.Size, vol.Format)
	if err != nil {
		return err
	}
	parent := vol.Parent
	c.s.c.freeVolume(d.file)
	c.s.c.Volumes[id].Parent = parent
	if d.cdrom() && !c.allowed(fmt.Sprintf("/vms/%d", to.ID), "VM.Config.CDROM") {
		return die("403 Permission check failed (/vms/%d, VM.Config.CDROM)", to.ID)
	}
	d.file = id
	to.Config[toKey] = d.String()
	return nil
}
