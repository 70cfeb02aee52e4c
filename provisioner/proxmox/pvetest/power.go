package pvetest

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// pollEvery is how often the tasks that end a VM look whether QEMU is gone
// (QemuServer.pm:6698); termGrace is how long it gets after SIGTERM.
const pollEvery = time.Second

// powerTask is a task on the VM the path names, which need not exist: a start
// or stop of a missing VM fails in the task.
func (c *call) powerTask(typ string, work func(j *job, vm *VM) error) (any, error) {
	if err := c.rootOnly("skiplock"); err != nil {
		return nil, err
	}
	id := c.vmid()
	return c.fork(typ, strconv.Itoa(id), func(j *job) error {
		return j.locked(id, func() error {
			vm, err := c.vm()
			if err != nil {
				return err
			}
			return work(j, vm)
		})
	})
}

func startVM(c *call) (any, error) { return c.powerTask("qmstart", c.start) }

func (c *call) start(j *job, vm *VM) error {
	if vm.template() {
		return die("you can't start a vm if it's a template")
	}
	if l := vm.Config["lock"]; l != "" && !c.p.flag("skiplock") && l != "suspended" {
		return vm.checkLock()
	}
	if vm.Running {
		return die("VM %d already running", vm.ID)
	}
	vm.applyPending()
	custom, _ := splitProperties(vm.Config["cicustom"], "")
	for _, v := range custom {
		if c.s.c.Volumes[v.(string)] == nil {
			return die("volume '%s' does not exist", v)
		}
	}
	if hasCloudinit(vm.Config) {
		j.print("generating cloud-init ISO")
	}
	if c.s.release() >= 900 {
		j.print("for my (...) is experimental at /usr/share/perl5/PVE/LXC.pm line 1635.")
	}
	if n := vm.cores(); n > c.node.CPUs {
		return die("MAX %d vcpus allowed per VM on this node", c.node.CPUs)
	}
	if kvm, ok := vm.Config["kvm"]; c.node.NoKVM && (!ok || isTrue(kvm)) {
		return die("KVM virtualisation configured, but not available. Either disable in VM configuration or enable in BIOS.")
	}
	if err := c.drivesStart(j, vm); err != nil {
		return err
	}
	if err := c.qemuStarts(j, vm); err != nil {
		return err
	}
	if err := j.spend(); err != nil {
		return err
	}
	return c.s.powerOn(vm, j.c.s.nextPID())
}

// qemuStarts finds what only QEMU finds; its words are in the log alone.
func (c *call) qemuStarts(j *job, vm *VM) error {
	for k, v := range vm.Config {
		props, _ := splitProperties(v, "model")
		if b := props.str("bridge"); netKey.MatchString(k) && b != "" && !c.node.hasBridge(b) {
			j.printf("bridge '%s' does not exist", b)
			j.printf("qemu-system-x86_64: -netdev type=tap,id=%[2]s,ifname=tap%[1]di%[3]s,script=/usr/libexec/qemu-server/pve-bridge,"+
				"downscript=/usr/libexec/qemu-server/pve-bridgedown: network script /usr/libexec/qemu-server/pve-bridge failed with status 512",
				vm.ID, k, strings.TrimPrefix(k, "net"))
			return die("start failed: QEMU exited with code 1")
		}
	}
	if vm.memory() > c.node.Memory {
		j.print("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory")
		return die("start failed: QEMU exited with code 1")
	}
	return nil
}

func hasCloudinit(conf map[string]string) bool {
	for k, v := range conf {
		if driveKey.MatchString(k) && parseDrive(k, v).cloudinit() {
			return true
		}
	}
	return false
}

func (n *Node) hasBridge(name string) bool {
	return slices.Contains(n.Bridges, name)
}

// stopVM may do away with shutdown tasks that hold the lock (since 8.2).
func stopVM(c *call) (any, error) {
	if err := c.rootOnly("skiplock", "keepActive", "migratedfrom"); err != nil {
		return nil, err
	}
	id := c.vmid()
	return c.fork("qmstop", strconv.Itoa(id), func(j *job) error {
		if c.p.flag("overrule-shutdown") {
			c.overrule(j, id)
		}
		return j.locked(id, func() error {
			vm, err := c.vm()
			if err != nil {
				return die("unable to find configuration file for VM %d on node '%s'", id, c.node.Name)
			}
			if !vm.Running {
				return nil
			}
			if l := vm.Config["lock"]; l != "" && !c.p.flag("skiplock") {
				return vm.checkLock()
			}
			return c.stop(j, vm)
		})
	})
}

// overrule ends the shutdown tasks of a VM that the caller may end.
func (c *call) overrule(j *job, vmid int) {
	var ended []string
	for _, t := range c.s.c.tasks {
		if t.running() && t.typ == "qmshutdown" && t.id == strconv.Itoa(vmid) && t.node == c.node.Name && c.sees(t) {
			t.stop(errStopped)
			c.s.wait(t, time.Second)
			ended = append(ended, t.upid)
		}
	}
	if len(ended) > 0 {
		j.printf("overruled qmshutdown tasks: %s", strings.Join(ended, ", "))
	}
}

// stop ends QEMU: asked over QMP, which works unless the time given is up
// before the next look at it, then by SIGTERM.
func (c *call) stop(j *job, vm *VM) error {
	wait := c.s.scaled(pollEvery)
	if given := c.seconds("timeout", 60); given <= wait {
		defer func() { j.print("VM still running - terminating now with SIGTERM") }()
	}
	if err := c.s.sleep(j.ctx, wait); err != nil {
		return err
	}
	if err := j.spend(); err != nil {
		return err
	}
	c.s.powerOff(vm)
	return nil
}

func shutdownVM(c *call) (any, error) {
	if err := c.rootOnly("skiplock", "keepActive"); err != nil {
		return nil, err
	}
	if vm, err := c.vm(); err == nil && vm.Running && vm.QMPStatus == "paused" {
		if !c.p.flag("forceStop") {
			return nil, die("VM is paused - cannot shutdown")
		}
		return stopVM(c)
	}
	return c.powerTask("qmshutdown", func(j *job, vm *VM) error {
		if !vm.Running {
			return nil
		}
		if err := vm.checkLock(); err != nil {
			return err
		}
		return c.shutdown(j, vm, c.p.flag("forceStop"))
	})
}

// shutdown asks the guest, by its agent if that is configured, else by ACPI,
// and waits for the end of QEMU with the VM locked.
func (c *call) shutdown(j *job, vm *VM, force bool) error {
	m := c.s.guests[vm.ID]
	if on, _ := vm.agentEnabled(); on {
		if _, err := c.agentCommand(j.ctx, vm, "guest-ping", nil, agentPing); err != nil {
			j.printf("QEMU Guest Agent is not running - VM %d %s command 'guest-ping' failed - got timeout", vm.ID, c.s.monitorName())
		} else {
			_, _ = c.agentCommand(j.ctx, vm, "guest-shutdown", map[string]any{"mode": "powerdown"}, time.Second)
		}
	} else if m != nil {
		m.guest.Powerdown()
	}
	gone := m == nil
	if m != nil {
		c.s.unlocked(func() {
			t := time.NewTimer(c.seconds("timeout", 60))
			defer t.Stop()
			select {
			case <-m.guest.Done():
				gone = true
			case <-t.C:
			case <-j.ctx.Done():
			}
		})
	}
	if err := j.ctx.Err(); err != nil {
		return errStopped
	}
	if !gone && !force {
		if err := c.s.pass(j.ctx, "giving up"); err != nil {
			return err
		}
		return die("VM quit/powerdown failed - got timeout")
	}
	if !gone {
		j.print("VM still running - terminating now with SIGTERM")
	}
	if err := j.spend(); err != nil {
		return err
	}
	c.s.powerOff(vm)
	return nil
}

// runningVM is for calls that refuse a stopped VM at once.
func (c *call) runningVM() (*VM, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	if !vm.Running {
		return nil, die("VM %d not running", vm.ID)
	}
	return vm, nil
}

// rebootVM ends when the VM is down; what starts it again is no task of the
// caller's (measured).
func rebootVM(c *call) (any, error) {
	vm, err := c.runningVM()
	if err != nil {
		return nil, err
	}
	if vm.QMPStatus == "paused" {
		return nil, die("VM is paused - cannot shutdown")
	}
	return c.powerTask("qmreboot", func(j *job, vm *VM) error {
		if err := vm.checkLock(); err != nil {
			return err
		}
		if err := c.shutdown(j, vm, false); err != nil {
			return err
		}
		c.s.work.Go(func() { c.s.cleanup(c, vm.ID) })
		return nil
	})
}

// cleanup is qmeventd's "qm cleanup" after a reboot: it starts the VM again as
// root, some two seconds later.
func (s *Server) cleanup(c *call, vmid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sleep(s.ctx, s.scaled(2*time.Second)) != nil || s.pass(s.ctx, "qm cleanup") != nil || s.c.VMs[vmid] == nil {
		return
	}
	again := &call{s: s, entry: c.entry, node: c.node, who: identity{"root@pam"}, p: params{"vmid": strconv.Itoa(vmid), "node": c.node.Name}}
	_, _ = startVM(again)
}

func resetVM(c *call) (any, error) {
	if _, err := c.runningVM(); err != nil {
		return nil, err
	}
	return c.powerTask("qmreset", func(j *job, vm *VM) error {
		if err := vm.checkLock(); err != nil {
			return err
		}
		pid := vm.pid
		c.s.powerOff(vm)
		if err := j.spend(); err != nil {
			return err
		}
		return c.s.powerOn(vm, pid)
	})
}

func suspendVM(c *call) (any, error) {
	if _, err := c.runningVM(); err != nil {
		return nil, err
	}
	if c.p.flag("todisk") {
		if err := c.permitted("/vms/{vmid} VM.Config.Disk"); err != nil {
			return nil, err
		}
		return c.powerTask("qmsuspend", c.hibernate)
	}
	return c.powerTask("qmpause", func(j *job, vm *VM) error {
		if err := vm.checkLock(); err != nil {
			return err
		}
		vm.QMPStatus = "paused"
		return j.spend()
	})
}

// hibernate stops the VM with its memory saved; start resumes it (derived:
// QemuServer.pm vm_suspend).
func (c *call) hibernate(j *job, vm *VM) error {
	if err := vm.checkLock(); err != nil {
		return err
	}
	if st := c.p.str("statestorage"); st != "" && c.s.c.storage(st) == nil {
		return die("storage '%s' does not exist", st)
	}
	vm.Config["lock"] = "suspending"
	if err := j.spend(); err != nil {
		return err
	}
	vm.Config["lock"] = "suspended"
	c.s.powerOff(vm)
	return nil
}

func resumeVM(c *call) (any, error) {
	if _, err := c.runningVM(); err != nil {
		return nil, err
	}
	return c.powerTask("qmresume", func(j *job, vm *VM) error {
		if l := vm.Config["lock"]; l != "" && l != "suspended" {
			return vm.checkLock()
		}
		vm.QMPStatus = "running"
		return j.spend()
	})
}

// powerOn starts the guest of a VM.
func (s *Server) powerOn(vm *VM, pid int) error {
	if vm.Config["lock"] == "suspended" {
		delete(vm.Config, "lock")
	}
	if err := s.bootGuest(vm); err != nil {
		return die("start failed: %v", err)
	}
	vm.Running, vm.QMPStatus, vm.pid, vm.started = true, "running", pid, time.Now()
	return nil
}

// powerOff ends QEMU: guest, pending changes and all.
func (s *Server) powerOff(vm *VM) {
	vm.Running, vm.QMPStatus, vm.pid = false, "", 0
	if m := s.guests[vm.ID]; m != nil {
		delete(s.guests, vm.ID)
		s.unlocked(m.kill)
		s.installed(vm, m.guest)
	}
	vm.applyPending()
}
