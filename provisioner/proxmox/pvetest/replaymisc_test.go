package pvetest

import (
	"fmt"
	"maps"
	"strconv"
	"time"
)

func transcript74() *transcript {
	const files, load = "the simulated node has no files", "what it measured is load"
	const screen = "there is no screen behind a simulated console"
	const digest = "TestADigestIsGoodForOneChange counts the winners"
	omit := map[string]string{
		"token: vncwebsocket handshake": screen, "used ticket/port again": screen, "ticket: handshake by cookie": screen,
		"termproxy without a serial port":                      harness + ": its node has no termproxy",
		"termproxy serial0 (returns port, ticket, upid, user)": harness + ": its node has no termproxy",
		"config file": files, "lock line of 188": files, "worker processes": "there are no processes",
		"test setup: a second lock line (suspended) appended to the config of the still running VM": files + "; the lock is set before the entry after it",
		"stopped + lock: suspended (no vmstate)":                                                    files + "; the lock is set before the entry after it",
		"qm unlock":                                                                                 "qm is not simulated", "description round trip summary": note,
		"digest race: 4 concurrent PUTs with the same digest, 5 rounds: exactly one wins each time?": digest,
		"4 concurrent PUTs of different keys without a digest: all applied?":                         digest,
	}
	for _, title := range []string{"", " -> final task status", " -> task log"} {
		omit["suspend todisk=1 (harness: Debian QEMU has no savevm-async, fails in the task)"+title] = harness + ": its QEMU can't save memory"
	}
	omitAt := map[int]string{}
	for i := 261; i <= 306; i++ {
		switch {
		case i < 266:
			omitAt[i] = note
		case i != 266 && i != 302 && i != 304:
			omitAt[i] = load
		}
	}
	omitAt[353] = load
	return &transcript{prepare: func(r *replay, c *Cluster) {
		minis(c)
		agentUser(r, c)
		pool(c)
		minimal(c)
		delete(c.VMs[9001].Config, "tags")
		r.tick[0] = "PVE:root@pam:6B047909::" + newUUID()
		c.tickets[r.tick[0]], r.tick[1] = "root@pam", csrfToken(r.tick[0])
		recordedTasks(c)
	}, before: before74(), omit: omit, omitAt: omitAt}
}

// before74 is what was done between the entries.
func before74() map[string]func(*replay) {
	edit := func(f func(c *Cluster)) func(*replay) { return func(r *replay) { r.srv.Edit(f) } }
	lock := func(l string) func(*replay) { return edit(func(c *Cluster) { c.VMs[188].Config["lock"] = l }) }
	gone := func(ids ...int) func(*replay) {
		return edit(func(c *Cluster) {
			for _, id := range ids {
				c.removeVolumes(id)
				delete(c.VMs, id)
				maps.DeleteFunc(c.Pools["mcp"].VMs, func(vm int, _ bool) bool { return vm == id })
			}
		})
	}
	return map[string]func(*replay){
		"task of clone -> 183":        hold("qmclone"),
		"stop own task":               both(cold, release, settle),
		"pools (root)":                edit(func(c *Cluster) { diskless(c, 185, "p185") }),
		"digest before a no-op write": edit(func(c *Cluster) { c.VMs[184].Config["description"] = "race 4-1" }),
		"vncproxy of a stopped VM":    edit(func(c *Cluster) { diskless(c, 189, "p189") }),
		"clone":                       gone(188),
		"status/current":              lock("suspended"),
		"full clone to 187":           cloning(-1),
		"exitstatus after the abort":  cloning(0),
		"wrong vncticket":             func(r *replay) { r.vnc = "" },
		"config after the failed todisk (lock? vmstate?)":                                                  lock("suspending"),
		"lock=suspended: status/current (lock key)":                                                        lock("suspended"),
		"config change seen in cluster/resources: rename":                                                  edit(func(c *Cluster) { diskless(c, 2500, "new-0") }),
		"stale pool member 4711 (PUT /pools accepted a missing VM): the token now has rights on /vms/4711": gone(184, 185, 189, 2500),
	}
}

// diskless adds a VM that has only a name.
func diskless(c *Cluster, id int, name string) {
	c.VMs[id] = &VM{ID: id, Node: "pve", Pending: map[string]string{}, Deleted: map[string]bool{}, Config: map[string]string{
		"boot": " ", "name": name, "meta": "creation-qemu=7.2.22,ctime=1795455206", "smbios1": "uuid=" + newUUID(), "vmgenid": newUUID(),
	}}
}

// recordedTasks are the 330 tasks that were there when the recording began, as
// far as its lists and their totals tell of them.
func recordedTasks(c *Cluster) {
	const root, sep, b1, ok = "root@pam!mcp", "agent@pve!sep", "builder@pve!b1", "OK"
	add := func(n int, typ, id, who, exit string, at int64) {
		for range n {
			t := &Task{node: "pve", typ: typ, id: id, who: identity{who}, pid: len(c.tasks), start: time.Unix(1795450000+at, 0), end: time.Unix(1795450000+at, 0), exit: exit}
			t.upid = fmt.Sprintf("UPID:pve:%08X:00000001:%08X:%s:%s:%s:", len(c.tasks), t.start.Unix(), typ, id, who)
			c.tasks = append(c.tasks, t)
			c.byUPID[t.upid] = t
		}
	}
	add(103, "qmstart", "160", root, ok, 4000)
	add(87, "qmstart", "170", root, "VM 170 already running", 4000)
	add(34, "qmclone", "9001", root, ok, 4100)
	add(15, "qmstart", "9001", root, "you can't start a vm if it's a template", 4100)
	add(8, "qmconfig", "180", sep, ok, 4500)
	add(39, "qmconfig", "181", sep, ok, 4700)
	add(1, "qmdelsnapshot", "181", sep, ok, 4892)
	add(1, "qmstart", "181", sep, ok, 4894)
	add(3, "qmclone", "9001", sep, ok, 4944)
	add(1, "qmdestroy", "180", sep, ok, 4953)
	add(1, "qmdestroy", "182", sep, ok, 4955)
	add(30, "qmcreate", "9050", root, ok, 5000) // more than /cluster/tasks shows of a node
	add(2, "qmclone", "9050", b1, ok, 5052)
	add(1, "qmdestroy", "9050", b1, ok, 5077)
	add(1, "qmdestroy", "187", b1, ok, 5078)
	for i, id := range []int{187, 9050, 9051} {
		add(1, "qmstop", strconv.Itoa(id), root, fmt.Sprintf("unable to find configuration file for VM %d on node 'pve'", id), 5079+int64(i))
	}
}
