package pvetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// transcript says how a recording is replayed.
type transcript struct {
	version   string
	guests    bool          // with real processes
	staleness time.Duration // of the cluster's resources; 0 is none
	prepare   func(*replay, *Cluster)
	begin     func(*replay)
	before    map[string]func(*replay) // by title
	after     map[string]func(*replay)
	replace   []string // texts of the recording, and what stands for them
	web       func(*testing.T) func(ctx context.Context, network, addr string) (net.Conn, error)
	omit      map[string]string // reasons by title
	omitAt    map[int]string    // reasons by number, where titles are not unique
}

func (tr *transcript) omitted(i int, e recorded) string { return tr.omit[e.Title] + tr.omitAt[i] }

func (tr *transcript) stale() time.Duration {
	if tr.staleness == 0 {
		return -1
	}
	return tr.staleness
}

// Reasons for leaving out an entry.
const (
	note    = "a note of what was seen on the node, without a request"
	chance  = "who wins is chance; TestParallelClones and TestParallelDestroys count the winners"
	history = "the list has the tasks of the recordings before it"
	slow    = "an effect of emulation: our guest is done by then"
	other   = "our guest is another machine"
	harness = "an artifact of the recorded server"
)

func hot(r *replay)  { r.hot = true }
func cold(r *replay) { r.hot = false }

// both runs hooks in order.
func both(hooks ...func(*replay)) func(*replay) {
	return func(r *replay) {
		for _, h := range hooks {
			h(r)
		}
	}
}

// answers asks a VM's agent until it answers.
func answers(id int) func(*replay) {
	return func(r *replay) {
		eventually(r.t, r.srv, fmt.Sprintf("the agent of %d answers", id), func(c *Cluster) bool {
			ask := &call{s: r.srv, node: c.Nodes[0], p: params{"vmid": fmt.Sprint(id)}}
			_, err := ask.agentVM()
			return err == nil
		})
	}
}

// hung waits until the agent of a VM has been stopped by a signal. From then on
// it need not be waited for.
func hung(id int) func(*replay) {
	return func(r *replay) {
		eventually(r.t, r.srv, "the agent is stopped", func(*Cluster) bool {
			init := r.srv.guests[id].guest.(*processGuest).cmd.Process.Pid
			stats, _ := filepath.Glob("/proc/[0-9]*/stat")
			for _, name := range stats {
				stat, _ := os.ReadFile(name)
				if strings.Contains(string(stat), fmt.Sprintf(") T %d ", init)) {
					r.srv.Patience = 100 * time.Millisecond
					return true
				}
			}
			return false
		})
	}
}

// reaches waits for a VM to run or to be stopped.
func reaches(id int, running bool) func(*replay) {
	return func(r *replay) {
		eventually(r.t, r.srv, fmt.Sprintf("VM %d runs: %v", id, running), func(c *Cluster) bool { return c.VMs[id].Running == running })
	}
}

// leftOut are the transcripts that are not replayed.
var leftOut = map[string]string{"99": "derived from the sources of PVE, not recorded"}

// minis are the templates and VMs of the recorded server.
func minis(c *Cluster, vms ...int) {
	big := c.AddTemplate("pve", 9000, "tmpl-debian12")
	big.Config["cores"], big.Config["memory"] = "2", "768"
	c.Volumes["local:9000/base-9000-disk-0.qcow2"].Size = 3 << 30
	big.Config["scsi0"] = "local:9000/base-9000-disk-0.qcow2,size=3G"
	c.AddTemplate("pve", 9001, "tmpl-mini").Config["tags"] = "mcp;mini"
	for _, id := range vms {
		linked(c, id, map[int]string{101: "m1", 110: "work-110"}[id])
	}
}

// linked adds a VM that is a linked clone of 9001.
func linked(c *Cluster, id int, name string) {
	vm := c.AddVM("pve", id, name)
	vm.Config["tags"] = "mcp;mini"
	old := parseDrive("scsi0", vm.Config["scsi0"])
	c.freeVolume(old.file)
	disk := fmt.Sprintf("local:9001/base-9001-disk-0.qcow2/%d/vm-%d-disk-0.qcow2", id, id)
	c.addVolume(disk, "pve", id, 2<<30, "local:9001/base-9001-disk-0.qcow2")
	vm.Config["scsi0"] = disk + ",size=2G"
}

// booting makes agents silent until answering is called.
func booting(r *replay)   { r.delay.Store(-1) }
func answering(r *replay) { r.delay.Store(0) }

// silent makes the agent of a VM that runs no longer answer.
func silent(id int) func(*replay) {
	return func(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.guests[id].never = true }) }
}

// wake makes the agent of a VM that was booting answer.
func wake(id int) func(*replay) {
	return func(r *replay) {
		r.delay.Store(0)
		r.srv.Edit(func(*Cluster) { r.srv.guests[id].never = false })
	}
}

func agentUser(r *replay, c *Cluster) {
	r.token["agent@pve!full"] = c.AddToken("agent@pve!full", false)
	r.token["agent@pve!sep"] = c.AddToken("agent@pve!sep", true)
}

func pool(c *Cluster) { c.Pools["mcp"] = &Pool{Comment: "sandboxes", VMs: map[int]bool{}} }

func settle(r *replay) { r.settle() }

func transcripts() map[string]*transcript {
	return map[string]*transcript{
		"00": {prepare: func(_ *replay, c *Cluster) { delete(c.Tokens, "root@pam!mcp") }},
		"05": {prepare: func(_ *replay, c *Cluster) { minis(c, 110) }, omit: map[string]string{
			"network-get-interfaces at 6s after clone": note, "network-get-interfaces at 74s after clone": note,
			"ssh as agent with the injected key at 89s": note,
		}},
		"10": {prepare: func(r *replay, c *Cluster) {
			minis(c, 101, 110)
			pool(c)
			agentUser(r, c)
		}, before: map[string]func(*replay){"network list": bridges()}, after: map[string]func(*replay){"network list": bridges("vmbr0")},
			omit: map[string]string{"GET /api2/extjs/... missing VM": note}},
		"20": transcript20(), "25": transcript25(),
		"26": {prepare: func(_ *replay, c *Cluster) { minis(c, 110); c.VMs[110].Config["lock"] = "backup" }, before: map[string]func(*replay){
			"status after unlock": func(r *replay) { r.srv.Edit(func(c *Cluster) { delete(c.VMs[110].Config, "lock") }) },
		}, omit: map[string]string{"other lock values": note}},
		"30": transcript30(), "31": transcript31(), "40": transcript40(), "41": transcript41(), "42": transcript42(), "43": transcript43(),
		"70": transcript70(), "71": transcript71(), "74": transcript74(), "73": transcript73(), "01": transcript01(), "72": transcript72(),
		"50": transcript50(), "60": transcript60(), "61": transcript61(), "80": transcript80(), "90": transcript90(),
	}
}

func transcript20() *transcript {
	return &transcript{prepare: func(_ *replay, c *Cluster) { minis(c, 101) }, before: map[string]func(*replay){
		"linked clone from template 9001 to 110 (storage not given)": hold("qmclone begins", "qmclone"),
		"clone task log": cold,
		"clone of a non-template without full: PVE makes a FULL clone": hold("qmclone begins", "qmclone"),
		"source VM config while full clone runs (1)":                   both(pass("qmclone begins"), named(111)),
		"config change of target while locked":                         both(cold, release),
	}}
}

// bridges are those that the node has from now on.
func bridges(names ...string) func(*replay) {
	return func(r *replay) { r.srv.Edit(func(c *Cluster) { c.Nodes[0].Bridges = names }) }
}

// named waits for a clone to get its configuration.
func named(id int) func(*replay) {
	return func(r *replay) {
		eventually(r.t, r.srv, fmt.Sprintf("VM %d has a name", id), func(c *Cluster) bool { return c.VMs[id].Config["name"] != "" })
	}
}

func transcript25() *transcript {
	keep, free := keepLock(130)
	return &transcript{staleness: time.Hour, prepare: func(_ *replay, c *Cluster) {
		minis(c, 101, 110)
		linked(c, 111, "Copy-of-VM-work-110")
		c.VMs[110].Config["tags"], c.VMs[9001].Config["description"] = "a;b", "template"
	}, begin: func(r *replay) { r.boot(101); r.boot(111) },
		before: map[string]func(*replay){
			"slow full clone 9001 -> 120 (bwlimit=20000 KiB/s)":                                    cloning(-1),
			"second linked clone of the same template at the same time (template lock is shared?)": cloning(0),
			"abort the running clone: DELETE task":                                                 cloning(-1),
			"the target after abort":                                                               cloning(0),
			"parallel clone #3 to id 130":                                                          keep,
		},
		after:  map[string]func(*replay){"parallel clone #1 to id 130": free},
		omitAt: map[int]string{32: chance, 33: chance, 34: chance, 35: chance, 36: chance, 37: chance, 38: chance, 39: chance},
	}
}

func transcript30() *transcript {
	return &transcript{prepare: func(_ *replay, c *Cluster) { minis(c, 101, 110); c.VMs[110].Config["tags"] = "a;b" }, before: map[string]func(*replay){
		"start":                    func(r *replay) { r.boot(101); booting(r) },
		"agent ping ok":            wake(110),
		"reboot (agent)":           both(hold("qm cleanup"), cold),
		"shutdown (agent)":         both(release, settle, reaches(110, true)),
		"start again":              booting,
		"start with timeout param": answering,
	}, begin: func(r *replay) { r.srv.AddressDelay = func(int) time.Duration { return time.Hour } }}
}

func transcript31() *transcript {
	return &transcript{guests: true, prepare: func(_ *replay, c *Cluster) { minis(c, 110) }, before: map[string]func(*replay){
		"guest poweroff from inside": both(settle, reaches(170, false)),
		"task list for the VM after reboot (the restart after the shutdown is no own task)": both(settle, reaches(170, true)),
		"task still running? double shutdown: first":                                        both(hold("giving up"), silent(170)),
		"second shutdown while the first waits":                                             holds(170),
		"stop while a shutdown task holds the lock (overrule-shutdown not given)":           patient,
		"shutdown timeout=20": both(hot, silent(170)),
		"status":              cold,
	}, omit: map[string]string{
		"guest poweroff from inside": note, "guest reboot from inside (QEMU stays, uptime keeps running)": note,
		"API reboot: order of task end and VM state": note, "API shutdown: order of task end and VM state": note,
	}, after: map[string]func(*replay){
		"stop while a shutdown task holds the lock (overrule-shutdown not given)": both(waits, release, cold, impatient),
	}}
}

func transcript40() *transcript {
	return &transcript{guests: true, prepare: func(_ *replay, c *Cluster) { minis(c, 101) }, begin: func(r *replay) { r.boot(101) }, omitAt: map[int]string{17: other}}
}

func transcript41() *transcript {
	return &transcript{guests: true, prepare: func(_ *replay, c *Cluster) { minis(c, 101) }, begin: func(r *replay) { r.boot(101) }, omit: map[string]string{
		"exec-status of 8388608 bytes of output":  slow,
		"exec-status of 15728640 bytes of output": slow, "exec-status of 17825792 bytes of output": slow,
	}, before: map[string]func(*replay){
		"exec-status of 4194304 bytes of output": func(r *replay) { // it took the emulated guest too long to send them
			r.srv.Edit(func(*Cluster) {
				r.srv.LoseReply = func(_ int, reply string) bool { return strings.Contains(reply, `"exited":true`) }
			})
		},
	}, after: map[string]func(*replay){
		"exec-status of 4194304 bytes of output": func(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.LoseReply = nil }) },
	}}
}

func transcript42() *transcript {
	return &transcript{guests: true, prepare: func(_ *replay, c *Cluster) { minis(c, 110) }, begin: func(r *replay) { r.boot(110) }, omit: map[string]string{
		"file-read /proc file (size 0 in stat)": other, "get-fsinfo": other, "get-memory-blocks": other,
		"file-read of 15 MiB text": "that of 4 MiB shows the same in less time", "file-read of 17 MiB text": "that of 16 MiB is cut off too",
		"bytes of /tmp/lat after writing äöü with encode=1": note, "mode and owner of a file created with file-write": note,
	}, before: map[string]func(*replay){
		"file-read of 1 MiB text": func(r *replay) {
			for _, n := range []int{1, 4, 16} {
				r.guestFile(110, fmt.Sprintf("tmp/big%d", n), bytes.Repeat([]byte("q"), n<<20))
			}
		},
	}}
}

func transcript43() *transcript {
	return &transcript{guests: true, begin: func(r *replay) { r.boot(110) }, prepare: func(_ *replay, c *Cluster) {
		minis(c, 110)
		maps.Copy(c.VMs[110].Config, map[string]string{"tags": "a;b", "description": "async", "ciuser": "agent", "ipconfig0": "ip=dhcp", "sshkeys": "ssh-ed25519%20" +
			"AAAAC3NzaC1lZDI1NTE5AAAAIEujzSCB5AGIkF8slj5KCUp1o83iwZ6z%2BS%2B6GeN8DOJ4%20client%0Assh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIEujzSCB5AGIkF8slj5KCUp1o83iwZ6z%2BS%2B6GeN8DOJ4%20second%0A",
			"scsi0": "local:9001/base-9001-disk-0.qcow2/110/vm-110-disk-0.qcow2,size=3G"})
	}, before: map[string]func(*replay){"ping with a hanging agent": hung(110)}}
}

func transcript50() *transcript {
	const dependent, noMemory = "delete snapshot s1 while live1 depends on it (running VM)", harness + ": its QEMU can't save memory"
	keep, free := contend(110)
	return &transcript{prepare: func(_ *replay, c *Cluster) {
		minis(c, 110)
		maps.Copy(c.VMs[110].Config, map[string]string{"description": "template", "ciuser": "agent", "ipconfig0": "ip=dhcp",
			"sshkeys": "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIEujzSCB5AGIkF8slj5KCUp1o83iwZ6z%2BS%2B6GeN8DOJ4%20client"})
	}, omitAt: map[int]string{
		42: noMemory, 43: noMemory, 44: noMemory, 54: "the network interfaces are not there yet at that moment",
	}, before: map[string]func(*replay){dependent: keep}, after: map[string]func(*replay){dependent: free}}
}

func transcript60() *transcript {
	return &transcript{staleness: time.Hour, prepare: func(r *replay, c *Cluster) { minis(c, 110); agentUser(r, c) }, before: map[string]func(*replay){
		"clone: + SDN.Use on the bridge": hold("qmclone"),
		"own task log":                   both(cold, release, settle),
	}}
}

func transcript61() *transcript {
	return &transcript{guests: true, prepare: func(r *replay, c *Cluster) {
		minis(c, 110)
		agentUser(r, c)
		pool(c)
		minimal(c)
		delete(c.VMs[9001].Config, "tags")
	}, before: map[string]func(*replay){
		"clone into pool":     hold("qmclone"),
		"task status (final)": both(cold, release),
	}}
}

// guestFile puts a file into a guest that is a process.
func (r *replay) guestFile(id int, path string, data []byte) {
	if err := os.WriteFile(filepath.Join(r.guests.Dir, fmt.Sprint(id), "root", path), data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// minimal is the least that a token needs, as it was granted on the recorded
// server.
func minimal(c *Cluster) {
	vm := []string{"Pool.Audit", "VM.Allocate", "VM.Audit", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.Memory",
		"VM.Config.Network", "VM.Config.Options", "VM.PowerMgmt", "VM.Snapshot", "VM.Snapshot.Rollback"}
	if c.release < 900 {
		vm = append(vm, "VM.Monitor")
	}
	c.Roles["MCPTemplate"] = &Role{Privs: []string{"VM.Audit", "VM.Clone"}}
	c.Roles["MCPVM"] = &Role{Privs: vm}
	c.Roles["MCPStore"] = &Role{Privs: []string{"Datastore.AllocateSpace", "Datastore.Audit"}}
	c.Roles["MCPNet"] = &Role{Privs: []string{"SDN.Use"}}
	for path, role := range map[string]string{"/vms/9001": "MCPTemplate", "/pool/mcp": "MCPVM", "/storage/local": "MCPStore", "/sdn/zones/localnetwork/vmbr0": "MCPNet"} {
		for _, who := range []string{"agent@pve", "agent@pve!sep"} {
			c.ACL = append(c.ACL, ACL{path, role, who, true})
		}
	}
}

// boot starts a VM outside of the transcript.
func (r *replay) boot(id int) {
	r.srv.Edit(func(c *Cluster) {
		if err := r.srv.powerOn(c.VMs[id], 2000); err != nil {
			r.t.Error(err)
		}
	})
}
