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

// cloneJob is one clone on its way (API2/Qemu.pm clone_vm).
type cloneJob struct {
	*call
	src    *VM
	conf   map[string]string // of the source, or of its snapshot
	newid  int
	target string
	full   bool
}

// cloneVM checks, then does the rest in a task. A target that exists is found
// twice: here, and in the task when clones raced for the id.
func cloneVM(c *call) (any, error) {
	cl := &cloneJob{call: c, newid: c.p.num("newid"), target: c.node.Name}
	if t := c.p.str("target"); t != "" {
		if c.s.c.node(t) == nil {
			return nil, die("no such cluster node '%s'", t)
		}
		cl.target = t
	}
	if pool := c.p.str("pool"); pool != "" && c.s.c.Pools[pool] == nil {
		return nil, denied("pool '" + pool + "' does not exist")
	}
	if c.p.has("storage") {
		if _, err := c.storageHere(c.p.str("storage")); err != nil {
			return nil, err
		}
	}
	free, err := c.s.lockVM(c.ctx(), c.say, c.vmid(), c.shareable(), cloneLockWait)
	if err != nil {
		return nil, err
	}
	err = cl.check()
	free()
	if err != nil {
		return nil, err
	}
	return c.fork("qmclone", strconv.Itoa(c.vmid()), cl.run)
}

// shareable: clones of a stopped VM share its lock.
func (c *call) shareable() bool {
	vm := c.s.c.VMs[c.vmid()]
	return vm == nil || !vm.Running
}

// check is what clone_vm's load_and_check does, before the task and in it.
func (cl *cloneJob) check() error {
	id := cl.vmid()
	cl.src = cl.s.c.VMs[id]
	if cl.src == nil || cl.src.Node != cl.node.Name {
		return die("unable to find configuration file for VM %d on node '%s'", id, cl.node.Name)
	}
	if err := cl.src.checkLock(); err != nil {
		return err
	}
	cl.conf = cl.src.Config
	if name := cl.p.str("snapname"); name != "" {
		sn := cl.src.snapshot(name)
		if sn == nil {
			return die("snapshot '%s' does not exist", name)
		}
		cl.conf = sn.Config
	}
	cl.full = !cl.src.template()
	if cl.p.has("full") {
		cl.full = cl.p.flag("full")
	}
	if !cl.full {
		for _, k := range []string{"storage", "format"} {
			if cl.p.has(k) {
				return die("parameter '%s' not allowed for linked clones", k)
			}
		}
	}
	if cl.target != cl.node.Name && !cl.shared() {
		return die("can't clone VM to node '%s' (VM uses local storage)", cl.target)
	}
	if cl.s.c.VMs[cl.newid] != nil {
		return die("unable to create VM %d: config file already exists", cl.newid)
	}
	return cl.checkDisks()
}

func (cl *cloneJob) checkDisks() error {
	for _, k := range cl.disks() {
		d := parseDrive(k, cl.conf[k])
		store, _ := cutVolume(d.file)
		if s := cl.p.str("storage"); s != "" {
			store = s
		}
		if cl.full || d.cdrom() {
			if vol := cl.s.c.Volumes[d.file]; vol == nil && !d.cloudinit() {
				continue
			}
		} else if cl.p.has("snapname") {
			return die("Linked clone feature is not supported for a snapshot of '%s' (%s)", d.file, k)
		} else if !strings.Contains(d.file, "/base-") || strings.Contains(d.file, "/vm-") {
			return die("Linked clone feature is not supported for '%s' (%s)", d.file, k)
		}
		if err := cl.call.check("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
			return err
		}
	}
	for k, v := range cl.conf {
		if netKey.MatchString(k) {
			if err := cl.bridgePermitted(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// shared reports whether all that the source has in its drives, CD images
// included, is on shared storage.
func (cl *cloneJob) shared() bool {
	for k, v := range cl.conf {
		store, _ := cutVolume(parseDrive(k, v).file)
		if s := cl.s.c.storage(store); driveKey.MatchString(k) && s != nil && !s.Shared {
			return false
		}
	}
	return true
}

// disks are the keys that are copied, in their order.
func (cl *cloneJob) disks() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for k, v := range cl.conf {
			d := parseDrive(k, v)
			if driveKey.MatchString(k) && (!d.cdrom() || d.cloudinit()) && !yield(k) {
				return
			}
		}
	})
}

// run is the task: it holds the lock of the source, shared if that is stopped,
// and of the target, each waited for only a second.
func (cl *cloneJob) run(j *job) error {
	release, err := cl.s.lockVM(j.ctx, j.print, cl.vmid(), cl.shareable(), cloneLockWait)
	if err != nil {
		return err
	}
	defer release()
	freeTarget, err := cl.s.lockVM(j.ctx, j.print, cl.newid, false, cloneLockWait)
	if err != nil {
		return err
	}
	defer freeTarget()
	if err := cl.check(); err != nil {
		return err
	}
	err = cl.copy(j)
	if err != nil && !j.killed() {
		cl.undo()
		return die("clone failed: %v", err)
	}
	return err
}

// copy writes the temporary configuration, makes the disks, and at the end
// gives the VM its description and its pool.
func (cl *cloneJob) copy(j *job) error {
	vm := &VM{
		ID: cl.newid, Node: cl.node.Name, born: time.Now(), Pending: map[string]string{}, Deleted: map[string]bool{},
		Config: map[string]string{"lock": "clone", "description": " qmclone temporary file"},
	}
	cl.s.c.VMs[cl.newid] = vm
	cl.s.c.cloneFirewall(cl.src.ID, cl.newid)
	if cl.s.release() >= 900 {
		j.printf("creating a clone of VM %d with ID %d", cl.src.ID, cl.newid)
	}
	if err := j.begin(); err != nil {
		return errStopped
	}
	conf := cl.newConfig()
	for i, k := range cl.disks() {
		if err := cl.copyDisk(j, vm, conf, k); err != nil {
			return err
		}
		if i == 0 {
			vm.Config = maps.Clone(conf)
		}
	}
	if len(cl.disks()) == 0 {
		if err := j.spend(); err != nil {
			return err
		}
	}
	delete(conf, "lock")
	if cl.p.has("description") {
		conf["description"] = cl.p.str("description")
	}
	vm.Config, vm.Node = conf, cl.target
	if pool := cl.s.c.Pools[cl.p.str("pool")]; pool != nil {
		pool.VMs[vm.ID] = true
	}
	return nil
}

// newConfig is the source's with what must be its own made anew.
func (cl *cloneJob) newConfig() map[string]string {
	conf := maps.Clone(cl.conf)
	maps.DeleteFunc(conf, func(k, _ string) bool {
		return k == "template" || k == "parent" || k == "snaptime" || strings.HasPrefix(k, "unused") || driveKey.MatchString(k)
	})
	for k, v := range cl.conf {
		d := parseDrive(k, v)
		if driveKey.MatchString(k) && d.cdrom() && !d.cloudinit() {
			conf[k] = v
		}
		if netKey.MatchString(k) {
			props, _ := splitProperties(v, "model")
			conf[k] = withMAC(strings.Replace(v, "="+props.str("macaddr"), "="+newMAC(), 1))
		}
	}
	conf["smbios1"] = "uuid=" + newUUID()
	if conf["vmgenid"] != "" {
		conf["vmgenid"] = newUUID()
	}
	conf["lock"], conf["name"] = "clone", cl.p.str("name")
	if conf["name"] == "" {
		conf["name"] = "Copy-of-VM-" + cl.src.name()
	}
	return conf
}

const (
	formatLine = "Formatting '/var/lib/vz/images/%d/%s', fmt=qcow2 cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib size=%d lazy_refcounts=off refcount_bits=16"
	rawLine    = "Formatting '/var/lib/vz/images/%d/%s', fmt=raw size=%d preallocation=off"
	linkedLine = "Formatting '/var/lib/vz/images/%d/%s', fmt=qcow2 cluster_size=%s compression_type=zlib size=%d backing_file=../%s backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16"
)

// formatting is what qemu-img says of a new image.
func formatting(vmid int, file string, size int64) string {
	if formatOf(file) == "raw" {
		return fmt.Sprintf(rawLine, vmid, file, size)
	}
	return fmt.Sprintf(formatLine, vmid, file, size)
}

// copyDisk makes one disk. The time of the task goes into the system disk.
func (cl *cloneJob) copyDisk(j *job, vm *VM, conf map[string]string, key string) error {
	d := parseDrive(key, cl.conf[key])
	store, name := cutVolume(d.file)
	if s := cl.p.str("storage"); s != "" {
		store = s
	}
	size := parseSize(d.props.str("size"))
	if vol := cl.s.c.Volumes[d.file]; vol != nil {
		size = vol.Size
	}
	d.set("size", sizeText(size))
	if d.cloudinit() {
		return cl.copyCloudinit(j, vm, conf, d, store, size)
	}
	format := "qcow2"
	if cl.full {
		format = cmp.Or(cl.p.str("format"), formatOf(d.file))
	}
	id, err := cl.allocate(store, vm, "", size, format)
	if err != nil {
		return err
	}
	if src := cl.s.c.Volumes[d.file]; src != nil {
		cl.s.c.Volumes[id].Stock = src.Stock
	}
	_, file := cutVolume(id)
	file = file[strings.Index(file, "/")+1:]
	if cl.full {
		err = cl.transfer(j, key, d.file, name, file, vm.ID, size)
	} else {
		cl.link(j, key, d.file, name, file, vm.ID, size)
		cl.s.c.Volumes[id].Parent = d.file
		d.file = d.file + "/" + strings.TrimPrefix(id, store+":")
		// The volume's name has its base in it from now on.
		cl.s.c.Volumes[d.file] = cl.s.c.Volumes[id]
		cl.s.c.Volumes[d.file].ID = d.file
		delete(cl.s.c.Volumes, id)
		id = d.file
		err = j.spend()
	}
	if err != nil {
		return err
	}
	d.file = id
	conf[key] = d.String()
	return nil
}

// copyCloudinit makes a drive of its own for what cloud-init is told.
func (cl *cloneJob) copyCloudinit(j *job, vm *VM, conf map[string]string, d drive, store string, size int64) error {
	j.printf("create full clone of drive %s (%s)", d.key, d.file)
	id, err := cl.allocate(store, vm, "cloudinit", size, "qcow2")
	if err != nil {
		return err
	}
	_, file := cutVolume(id)
	j.print(formatting(vm.ID, file[strings.Index(file, "/")+1:], size))
	if cl.s.release() >= 900 {
		j.printf("allocated target volume '%s'", id)
	}
	d.file = id
	conf[d.key] = d.String()
	return nil
}

func (cl *cloneJob) link(j *job, key, volume, base, file string, vmid int, size int64) {
	clusters := "65536 extended_l2=off"
	if cl.s.release() >= 900 {
		clusters = "131072 extended_l2=on preallocation=metadata"
	}
	j.printf("create linked clone of drive %s (%s)", key, volume)
	j.printf("clone %s: images, %s, %d to %s (base=../%s)", base, file, vmid, file, base)
	j.printf(linkedLine, vmid, file, clusters, size, base)
}

// transfer copies a disk, and says how far it got.
func (cl *cloneJob) transfer(j *job, key, volume, base, file string, vmid int, size int64) error {
	j.printf("create full clone of drive %s (%s)", key, volume)
	j.print(formatting(vmid, file, size))
	cl.transferred(size, 0, 0)
	if err := j.spend(); err != nil {
		limit := ""
		if n := cl.p.num("bwlimit"); n > 0 {
			limit = fmt.Sprintf("-r %dK ", n)
		}
		return die("copy failed: command '/usr/bin/qemu-img convert -p -n %s-f %s -O %s /var/lib/vz/images/%s zeroinit:/var/lib/vz/images/%d/%s' failed: %v",
			limit, formatOf(base), formatOf(file), base, vmid, file, err)
	}
	cl.transferred(size, 1, 100)
	return nil
}

// transferred tells how far the work of copying got, with a line for each
// percent: more than a page of a log has.
func (c *call) transferred(size, from, to int64) {
	for p := from; p <= to; p++ {
		c.say(fmt.Sprintf("transferred %s of %s (%.2f%%)", rounded(size*p/100), rounded(size), float64(p)))
	}
}

// rounded is an amount of bytes as PVE shows it to people (pve-common
// CLIFormatter.pm render_bytes).
func rounded(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}

// undo removes what a clone that failed has made.
func (cl *cloneJob) undo() {
	cl.s.c.removeVolumes(cl.newid)
	delete(cl.s.c.Firewall, strconv.Itoa(cl.newid))
	delete(cl.s.c.VMs, cl.newid)
}

// removeVolumes frees all volumes of a VM that can be.
func (c *Cluster) removeVolumes(vmid int) {
	maps.DeleteFunc(c.Volumes, func(_ string, v *Volume) bool { return v.VMID == vmid && !v.Busy })
}
