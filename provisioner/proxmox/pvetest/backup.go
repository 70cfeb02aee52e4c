package pvetest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// backupRoutes are what is needed of backup jobs to see that a VM that is
// destroyed with purge leaves them.
func backupRoutes() []*route {
	return []*route{
		{method: "GET", path: "/cluster/backup", call: listBackups, perm: "/ Sys.Audit"},
		{method: "POST", path: "/cluster/backup", call: addBackup, daemon: true, perm: "/ Sys.Modify",
			params: "vmid=vmid-list storage=storage-id schedule enabled=bool"},
	}
}

// backupJob is a backup that would be made on a schedule.
type backupJob struct {
	vms     []string
	options map[string]any
}

func listBackups(c *call) (any, error) {
	out := []map[string]any{}
	for _, job := range c.s.c.backups {
		e := maps.Clone(job.options)
		e["vmid"] = strings.Join(job.vms, ",")
		out = append(out, e)
	}
	return out, nil
}

func addBackup(c *call) (any, error) {
	options := map[string]any{"id": newUUID(), "type": "vzdump", "enabled": number(!c.p.has("enabled") || c.p.flag("enabled")), "next-run": time.Now().Unix()}
	for _, k := range []string{"schedule", "storage"} {
		if c.p.has(k) {
			options[k] = c.p.str(k)
		}
	}
	c.s.c.backups = append(c.s.c.backups, &backupJob{c.p.list("vmid"), options})
	return nil, nil
}

// purgeBackups takes a VM out of all backup jobs.
func (c *Cluster) purgeBackups(vmid int) {
	for _, job := range c.backups {
		job.vms = slices.DeleteFunc(job.vms, func(id string) bool { return id == strconv.Itoa(vmid) })
	}
}
