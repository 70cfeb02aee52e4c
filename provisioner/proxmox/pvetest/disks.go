package pvetest

import (
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
	if !vm.Running { // else QEMU does it, which says nothing
		j.print("Image resized.")
	}
	vol.Size = want
	d.set("size", sizeText(want))
	vm.Config[key] = d.String()
	return nil
}

func unlinkDisks(c *call) (any, error) {
	c.p["delete"] = c.p.str("idlist")
	return c.updateConfig(false)
}
