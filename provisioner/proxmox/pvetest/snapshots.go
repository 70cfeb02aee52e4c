package pvetest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func snapshotRoutes() []*route {
	const one = vmPath + "/snapshot/{snapname}"
	return []*route{
		{method: "GET", path: vmPath + "/snapshot", call: listSnapshots, daemon: true, perm: "/vms/{vmid} VM.Audit"},
		{method: "POST", path: vmPath + "/snapshot", call: takeSnapshot, daemon: true, perm: "/vms/{vmid} VM.Snapshot",
			params: "snapname!=configid,len=40 description vmstate=bool"},
		{method: "GET", path: one + "/config", call: snapshotConfig, perm: "/vms/{vmid} VM.Snapshot|VM.Snapshot.Rollback|VM.Audit"},
		{method: "PUT", path: one + "/config", call: editSnapshot, daemon: true, perm: "/vms/{vmid} VM.Snapshot", params: "description"},
		{method: "POST", path: one + "/rollback", call: rollback, daemon: true, perm: "/vms/{vmid} VM.Snapshot|VM.Snapshot.Rollback", params: "start=bool"},
		{method: "DELETE", path: one, call: deleteSnapshot, daemon: true, perm: "/vms/{vmid} VM.Snapshot", params: "force=bool"},
	}
}

func (vm *VM) snapshot(name string) *Snapshot {
	for _, sn := range vm.Snapshots {
		if sn.Name == name {
			return sn
		}
	}
	return nil
}

func listSnapshots(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, sn := range vm.Snapshots {
		e := map[string]any{"name": sn.Name, "description": sn.Description, "snaptime": sn.Time.Unix(), "vmstate": 0}
		if sn.Parent != "" {
			e["parent"] = sn.Parent
		}
		out = append(out, e)
	}
	now := map[string]any{"name": "current", "description": "You are here!", "digest": vm.digest(), "running": number(vm.Running)}
	if vm.Parent != "" {
		now["parent"] = vm.Parent
	}
	return append(out, now), nil
}

func takeSnapshot(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	name := c.p.str("snapname")
	if name == "current" || name == "pending" {
		return nil, die("unable to use snapshot name '%s' (reserved name)", name)
	}
	return c.fork("qmsnapshot", strconv.Itoa(vm.ID), func(j *job) error {
		return j.locked(vm.ID, func() error {
			switch {
			case vm.template():
				return die("you can't take a snapshot if it's a template")
			case vm.Config["lock"] != "":
				return vm.checkLock()
			case vm.snapshot(name) != nil:
				return die("snapshot name '%s' already used", name)
			case c.rawDisk(vm) != "":
				return die("snapshot feature is not available")
			}
			return c.snapshot(j, vm, name)
		})
	})
}

// rawDisk is a disk of a VM that a directory can't take snapshots of (derived:
// Storage/Plugin.pm volume_has_feature).
func (c *call) rawDisk(vm *VM) string {
	for _, k := range vm.drives() {
		d := parseDrive(k, vm.Config[k])
		if vol := c.s.c.Volumes[d.file]; vol != nil && vol.Format == "raw" && !d.cdrom() {
			return k
		}
	}
	return ""
}

func (c *call) snapshot(j *job, vm *VM, name string) error {
	vm.Config["lock"] = "snapshot"
	for _, k := range slices.Sorted(maps.Keys(vm.Config)) {
		if d := parseDrive(k, vm.Config[k]); driveKey.MatchString(k) && !d.cdrom() {
			j.printf("snapshotting 'drive-%s' (%s)", k, d.file)
		}
	}
	err := j.spend()
	if j.killed() {
		return err
	}
	delete(vm.Config, "lock")
	if err != nil {
		return err
	}
	conf := maps.Clone(vm.Config)
	maps.DeleteFunc(conf, func(k, _ string) bool { return strings.HasPrefix(k, "unused") })
	text := strings.TrimRight(c.p.str("description"), "\n")
	vm.Snapshots = append(vm.Snapshots, &Snapshot{Name: name, Description: text, Parent: vm.Parent, Time: time.Now(), Config: conf})
	vm.Parent = name
	return nil
}

func snapshotConfig(c *call) (any, error) {
	_, sn, err := c.namedSnapshot()
	if err != nil {
		return nil, err
	}
	out := c.configJSON(sn.Config)
	out["description"], out["snaptime"] = sn.Description, sn.Time.Unix()
	if sn.Parent != "" {
		out["parent"] = sn.Parent
	}
	return out, nil
}

func editSnapshot(c *call) (any, error) {
	_, sn, err := c.namedSnapshot()
	if err != nil {
		return nil, err
	}
	if c.p.has("description") {
		sn.Description = c.p.str("description")
	}
	return nil, nil
}

func (c *call) namedSnapshot() (*VM, *Snapshot, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, nil, err
	}
	sn := vm.snapshot(c.p.str("snapname"))
	if sn == nil {
		return nil, nil, die("snapshot '%s' does not exist", c.p.str("snapname"))
	}
	return vm, sn, nil
}

// rollback leaves a VM stopped unless start is given.
func rollback(c *call) (any, error) {
	return c.fork("qmrollback", strconv.Itoa(c.vmid()), func(j *job) error {
		return j.locked(c.vmid(), func() error {
			vm, sn, err := c.namedSnapshot()
			if err != nil {
				return err
			}
			if err := vm.checkLock(); err != nil {
				return err
			}
			if vm.Running {
				c.s.powerOff(vm)
			}
			if err := j.spend(); err != nil {
				return err
			}
			text, had := vm.Config["description"] // is not part of a snapshot
			vm.Config, vm.Parent = maps.Clone(sn.Config), sn.Name
			delete(vm.Config, "description")
			if had {
				vm.Config["description"] = text
			}
			delete(vm.Config, "lock")
			if !c.p.flag("start") {
				return nil
			}
			return c.s.powerOn(vm, c.s.nextPID())
		})
	})
}

func deleteSnapshot(c *call) (any, error) {
	return c.fork("qmdelsnapshot", strconv.Itoa(c.vmid()), func(j *job) error {
		return j.locked(c.vmid(), func() error {
			vm, sn, err := c.namedSnapshot()
			if err != nil {
				return err
			}
			if err := vm.checkLock(); err != nil {
				return err
			}
			if err := j.spend(); err != nil {
				return err
			}
			vm.Snapshots = slices.DeleteFunc(vm.Snapshots, func(x *Snapshot) bool { return x == sn })
			for _, other := range vm.Snapshots {
				if other.Parent == sn.Name {
					other.Parent = sn.Parent
				}
			}
			if vm.Parent == sn.Name {
				vm.Parent = sn.Parent
			}
			return nil
		})
	})
}
