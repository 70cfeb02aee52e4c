package pvetest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var allocateText = regexp.MustCompile(`^\d+(\.\d+)?$`)

// allocates says whether STORAGE:rest asks for a new volume of so many GiB.
func allocates(rest string) bool { return allocateText.MatchString(rest) }

// checkDrive checks what the value of a drive says by itself; of an import, that
// its source is there is found only when it is done.
func (c *call) checkDrive(key, v string) error {
	if !driveKey.MatchString(key) {
		return nil
	}
	d := parseDrive(key, v)
	from := d.props.str("import-from")
	_, rest := cutVolume(d.file)
	src := c.s.c.Volumes[from]
	switch {
	case strings.HasPrefix(d.file, "/") && !strings.HasPrefix(d.file, "/dev/"):
		return badParam(key, "unable to associate path '%s' to any storage", d.file)
	case from == "":
		return nil
	case rest != "0":
		return badParam(key, "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>")
	case strings.HasPrefix(from, "/") && c.who.name != "root@pam":
		return onlyRootPaths()
	case src == nil:
		return nil
	case src.Content != "images" && src.Content != "import":
		return badParam(key, "%s has wrong type '%s' - needs to be 'images' or 'import'", from, src.Content)
	case src.VMID != 0:
		return c.check("/vms/"+strconv.Itoa(src.VMID), "VM.Clone")
	}
	return nil
}

func onlyRootPaths() error {
	return die("Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.")
}

// drivesAccessible checks what the drives of a change want of storages (Qemu.pm
// check_storage_access).
func (c *call) drivesAccessible(vmid int, ch *change) error {
	for _, k := range c.options(ch) {
		if driveKey.MatchString(k) && ch.set[k] != "" {
			if err := c.driveAccessible(vmid, parseDrive(k, ch.set[k])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *call) driveAccessible(vmid int, d drive) error {
	store, rest := cutVolume(d.file)
	switch {
	case d.file == "none" || d.file == "cdrom":
		return nil
	case allocates(rest) || rest == "cloudinit":
		if err := c.check("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
			return err
		}
		st, err := c.storageHere(store)
		if err == nil && !slices.Contains(splitList(st.Content), "images") {
			return badParam("storage", "storage '%s' does not support vm images", store)
		}
		return err
	}
	if err := c.volumeAccessible(vmid, d.file); err != nil {
		return err
	}
	if typ, _, _ := volumeType(rest); typ == "iso" && !d.cdrom() {
		return badParam(d.key, "explicit 'media=cdrom' is required for iso images")
	}
	return nil
}

// setDrive attaches a volume, or makes one: STORAGE:GiB, STORAGE:cloudinit,
// STORAGE:0,import-from=VOLUME. What the slot had before is detached.
func (c *call) setDrive(vm *VM, key, v string) error {
	d := parseDrive(key, v)
	store, rest := cutVolume(d.file)
	switch {
	case rest == "cloudinit":
		id, err := c.allocate(store, vm, "cloudinit", 4<<20, "qcow2")
		if err != nil {
			return err
		}
		c.say(formatting(vm.ID, path.Base(id), 4<<20))
		d.file = id
		d.set("media", "cdrom")
		c.say(key + ": successfully created disk '" + d.String() + "'")
	case allocates(rest):
		if err := c.newDisk(vm, store, rest, &d); err != nil {
			return err
		}
	case d.file != "none" && d.file != "cdrom":
		vol := c.s.c.Volumes[d.file]
		switch {
		case vol == nil:
			return die("volume '%s' does not exist", d.file)
		case vol.Size == 0:
			return die("volume %s does not exist", d.file)
		}
		d.set("size", sizeText(vol.Size))
	}
	if old := vm.Config[key]; old != "" && parseDrive(key, old).file != d.file {
		if err := c.detach(vm, key, false); err != nil {
			return err
		}
	}
	vm.Config[key] = d.String()
	return nil
}

func (c *call) newDisk(vm *VM, store, gib string, d *drive) error {
	size, format := parseSize(gib+"G"), d.props.str("format")
	from := d.props.str("import-from")
	src := c.s.c.Volumes[from]
	switch {
	case from != "" && src == nil:
		return die("unable to create VM %d - failed to stat '%s'", vm.ID, volumePath(from))
	case src != nil:
		size = src.Size
		if format == "" {
			format = src.Format
		}
	}
	if format == "" {
		format = "raw"
	}
	if src != nil && src.Storage != "" {
		c.say("create full clone of drive (" + src.ID + ")")
	}
	id, err := c.allocate(store, vm, "", size, format)
	if err != nil {
		return err
	}
	c.say(formatting(vm.ID, path.Base(id), size))
	if src != nil {
		c.transferred(size, 0, 100)
	}
	d.file = id
	c.s.c.Volumes[id].Stock = src != nil && src.Stock
	delete(d.props, "import-from")
	delete(d.props, "format")
	d.set("size", sizeText(size))
	c.say(d.key + ": successfully created disk '" + d.String() + "'")
	return nil
}

// allocate makes a volume vm-ID-disk-N, or vm-ID-kind.
func (c *call) allocate(store string, vm *VM, kind string, size int64, format string) (string, error) {
	st, err := c.storageHere(store)
	if err != nil {
		return "", err
	}
	if st.Full {
		return "", die("unable to create image: qemu-img: /var/lib/vz/images/%d/vm-%d-disk-0.%s: No space left on device", vm.ID, vm.ID, format)
	}
	name := kind
	if kind == "" {
		name = c.s.c.freeName(vm.ID)
	}
	owner := "vm"
	if vm.template() && kind == "" { // it is made a base at once (measured)
		owner = "base"
	}
	id := fmt.Sprintf("%s:%d/%s-%d-%s.%s", store, vm.ID, owner, vm.ID, name, format)
	c.s.c.addVolume(id, vm.Node, vm.ID, size, "")
	return id, nil
}

// freeName is the first disk-N that no volume of a VM is called.
func (c *Cluster) freeName(vmid int) string {
	for i := 0; ; i++ {
		if name := "disk-" + strconv.Itoa(i); !c.taken(vmid, name) {
			return name
		}
	}
}

// taken says whether a VM has a volume of that name, whatever its format or
// its base.
func (c *Cluster) taken(vmid int, name string) bool {
	var forms []string
	for _, kind := range []string{"vm", "base"} {
		for _, before := range []string{":", "/"} {
			forms = append(forms, fmt.Sprintf("%s%d/%s-%d-%s.", before, vmid, kind, vmid, name))
		}
	}
	for id := range c.Volumes {
		if slices.ContainsFunc(forms, func(f string) bool { return strings.Contains(id, f) }) {
			return true
		}
	}
	return false
}

// detach takes a disk off; its volume becomes unusedN if the VM owns it.
func (c *call) detach(vm *VM, key string, destroy bool) error {
	d := parseDrive(key, vm.Config[key])
	vol := c.s.c.Volumes[d.file]
	switch {
	case vol == nil || vol.VMID != vm.ID:
	case d.cloudinit():
		c.s.c.freeVolume(d.file)
	case d.cdrom():
	case destroy:
		if err := c.deallocate(vm, key, d.file); err != nil {
			return err
		}
	default:
		vm.addUnused(d.file)
	}
	delete(vm.Config, key)
	return nil
}

// deallocate destroys a volume that only the option key names, if the VM owns
// it (QemuServer.pm try_deallocate_drive).
func (c *call) deallocate(vm *VM, key, volume string) error {
	vol := c.s.c.Volumes[volume]
	if vol == nil || vol.VMID != vm.ID {
		return nil
	}
	if err := c.check("/storage/"+vol.Storage, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	if names(vm.Config, volume, key) || vm.snapshotNames(volume) {
		return die("unable to delete '%s' - volume is still in use (snapshot?)", volume)
	}
	if err := c.s.c.unlinked(vol); err != nil {
		return err
	}
	c.s.c.freeVolume(volume)
	return nil
}

// unlinked refuses a base volume that linked clones are made of.
func (c *Cluster) unlinked(v *Volume) error {
	for _, other := range c.Volumes {
		if other.Parent == v.ID {
			_, name := cutVolume(v.ID)
			return die("base volume '%s' is still in use by linked clones", name)
		}
	}
	return nil
}

func (c *Cluster) freeVolume(id string) { delete(c.Volumes, id) }

// names says whether an option other than but has the volume as its drive.
func names(conf map[string]string, volume, but string) bool {
	for k, v := range conf {
		if k != but && (driveKey.MatchString(k) || strings.HasPrefix(k, "unused")) && parseDrive(k, v).file == volume {
			return true
		}
	}
	return false
}

func (vm *VM) snapshotNames(volume string) bool {
	return slices.ContainsFunc(vm.Snapshots, func(sn *Snapshot) bool { return names(sn.Config, volume, "") })
}

func (vm *VM) addUnused(volume string) {
	for i := range 256 {
		if k := "unused" + strconv.Itoa(i); vm.Config[k] == "" {
			vm.Config[k] = volume
			return
		}
	}
}

// forgetUsed removes the unusedN of volumes that a drive has, as PVE does when
// it writes a configuration (QemuServer.pm write_vm_config).
func (vm *VM) forgetUsed() {
	maps.DeleteFunc(vm.Config, func(k, v string) bool { return strings.HasPrefix(k, "unused") && names(vm.Config, v, k) })
}

// drivesStart finds the drives that QEMU can't open.
func (c *call) drivesStart(j *job, vm *VM) error {
	for _, k := range vm.drives() {
		d := parseDrive(k, vm.Config[k])
		if c.s.c.Volumes[d.file] == nil {
			return die("volume '%s' does not exist", d.file)
		}
		if d.props.flag("iothread") && strings.HasPrefix(k, "scsi") && vm.Config["scsihw"] != "virtio-scsi-single" {
			j.warn("iothread is only valid with virtio disk or virtio-scsi-single controller, ignoring")
		}
	}
	open := map[string]bool{} // two processes may not write to one image, nor one twice
	for _, other := range c.s.c.VMs {
		for _, k := range other.drives() {
			open[parseDrive(k, other.Config[k]).file] = other.Running || open[parseDrive(k, other.Config[k]).file]
		}
	}
	for _, k := range vm.drives() {
		d := parseDrive(k, vm.Config[k])
		if d.cdrom() {
			continue
		}
		if open[d.file] {
			file := volumePath(d.file)
			j.printf("qemu-system-x86_64: -drive file=%s,if=none,id=drive-%s,format=%s,cache=none,aio=io_uring,detect-zeroes=on: Failed to get \"write\" lock", file, k, formatOf(d.file))
			j.printf("Is another process using the image [%s]?", file)
			return die("start failed: QEMU exited with code 1")
		}
		open[d.file] = true
	}
	return nil
}

// drives are the options of a VM, in their order, that have a medium.
func (vm *VM) drives() []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(vm.Config)) {
		if file := parseDrive(k, vm.Config[k]).file; driveKey.MatchString(k) && file != "none" && file != "cdrom" {
			keys = append(keys, k)
		}
	}
	return keys
}
