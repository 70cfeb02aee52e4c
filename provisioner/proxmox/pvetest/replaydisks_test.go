package pvetest

// transcript72 is about disks. Between its three parts VMs were made and
// destroyed without a record.
func transcript72() *transcript {
	doomed := func(r *replay) {
		r.srv.Edit(func(c *Cluster) {
			c.AddVM("pve", 182, "doomed")
			c.Pools["mcp"].VMs[182] = true
		})
	}
	return &transcript{
		prepare: func(r *replay, c *Cluster) {
			minis(c)
			agentUser(r, c)
			pool(c)
			minimal(c)
			delete(c.VMs[9001].Config, "tags")
			c.Nodes[0].NoKVM = true
		},
		after: map[string]func(*replay){
			"allocate two volumes with one PUT": first(""),
			"reassign to a locked VM":           func(r *replay) { r.srv.Edit(func(c *Cluster) { c.dropVMs(180, 181) }) },
		},
		before: map[string]func(*replay){
			"allocate two volumes with one PUT": first("scsi2"),
			"destroy 182 without purge":         doomed,
			"destroy 182 with purge=1":          doomed,
			"reassign to a locked VM":           func(r *replay) { r.srv.Edit(func(c *Cluster) { c.VMs[181].Config["lock"] = "backup" }) },
		},
		omit: map[string]string{
			"guest 181: block devices": note, "guest 181: mkfs + mark on sdb": note, "umount in the guest": note, "guest: devices after unplug": note,
			"guest 180: the data survived": note, "guest 181: devices": note, "guest 180: mount the hot-plugged disk": note, "guest 180 after": note,
			"images left": "the command was find",
		},
		omitAt: map[int]string{217: harness + ": it had no directory for jobs"},
	}
}

// dropVMs destroys VMs without a task.
func (c *Cluster) dropVMs(ids ...int) {
	for _, id := range ids {
		c.removeVolumes(id)
		delete(c.VMs, id)
		delete(c.Pools["mcp"].VMs, id)
	}
}
