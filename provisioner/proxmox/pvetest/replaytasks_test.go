package pvetest

import (
	"fmt"
	"time"
)

func transcript80() *transcript {
	keep, free := contend(9001)
	return &transcript{prepare: func(_ *replay, c *Cluster) {
		minis(c, 101, 110)
		c.VMs[9001].Config["description"] = "template"
		past(c, 4, "qmclone", "9001", "unable to create VM 130: config file already exists")
		past(c, 28, "qmclone", "9001", "OK")
		past(c, 48, "qmstart", "110", "VM 110 already running")
		past(c, 87, "qmstart", "110", "OK")
	}, before: map[string]func(*replay){
		"DELETE template with linked clones (task)": keep,
		"two DELETEs at once #1":                    both(patient, hold("qmdestroy")),
		"slow full clone to have a running task":    cloning(-1),
	}, after: map[string]func(*replay){
		"DELETE template with linked clones (task)": free,
		"two DELETEs at once #1":                    holds(160),
		"two DELETEs at once #0":                    both(waits, release, cold, impatient),
	}, omit: map[string]string{
		"syslog endpoint": harness + ": it had no journal",
	}}
}

// past adds tasks of an hour ago, from the recordings before.
func past(c *Cluster, n int, typ, id, exit string) {
	for range n {
		t := &Task{node: "pve", typ: typ, id: id, who: identity{"root@pam!mcp"}, start: time.Now().Add(-time.Hour), end: time.Now().Add(-time.Hour), exit: exit, done: make(chan struct{})}
		t.upid = fmt.Sprintf("UPID:pve:%08X:%08X:%08X:%s:%s:%s:", len(c.tasks), 0, t.start.Unix(), typ, id, t.who.name)
		close(t.done)
		c.tasks = append(c.tasks, t)
		c.byUPID[t.upid] = t
	}
}

func transcript90() *transcript {
	return &transcript{version: "9.2.11", guests: true, prepare: func(r *replay, c *Cluster) {
		r.srv.ArgumentsLast = func() bool { return false }
		minis(c, 101, 110)
		agentUser(r, c)
		pool(c)
		minimal(c)
		c.Roles["GA"] = &Role{Privs: []string{"VM.GuestAgent.Audit", "VM.GuestAgent.FileRead"}}
	}, before: map[string]func(*replay){"start": booting, "exec array": both(wake(300), answers(300)), "stop": snapshotLock, "agent: VM stopped": answers(300)},
		omitAt: map[int]string{55: noSnapshots, 56: noSnapshots, 57: noSnapshots}}
}

const noSnapshots = harness + ": its QEMU can't take snapshots"

// snapshotLock is what the snapshot left behind that failed.
func snapshotLock(r *replay) {
	r.srv.Edit(func(c *Cluster) { c.VMs[300].Config["lock"] = "snapshot" })
}
