package proxmox

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// shutdownTime is what a guest gets to shut down, asked by its agent or, without
// one, by ACPI, until Proxmox takes the power away.
const shutdownTime = time.Minute

// Stop implements [provisioner.Stopper].
func (p *Provisioner) Stop(ctx context.Context, ref provisioner.Ref) error {
	return p.switched(ctx, "stop", ref, p.shutDown)
}

// Start implements [provisioner.Stopper].
func (p *Provisioner) Start(ctx context.Context, ref provisioner.Ref) error {
	return p.switched(ctx, "start", ref, p.switchOn)
}

// Pause implements [provisioner.Suspender].
func (p *Provisioner) Pause(ctx context.Context, ref provisioner.Ref) error {
	return p.switched(ctx, "pause", ref, func(ctx context.Context, m live, s pve.Status) error {
		return p.hold(ctx, m, s, true, p.Client.Suspend)
	})
}

// Resume implements [provisioner.Suspender].
func (p *Provisioner) Resume(ctx context.Context, ref provisioner.Ref) error {
	return p.switched(ctx, "resume", ref, func(ctx context.Context, m live, s pve.Status) error {
		return p.hold(ctx, m, s, false, p.Client.Resume)
	})
}

// Resize implements [provisioner.Resizer]. The disk comes first, which is all that
// may want room: the rest is done at once, with the papers.
func (p *Provisioner) Resize(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers, size provisioner.Size) error {
	if papers.Sandbox != ref.Sandbox || papers.Instance != p.Instance {
		return fmt.Errorf("resize %s: papers are of %s of %s: %w", ref.Sandbox, papers.Sandbox, papers.Instance, provisioner.ErrInvalid)
	}
	return p.switched(ctx, "resize", ref, func(ctx context.Context, m live, s pve.Status) error {
		if s.Running() {
			return fmt.Errorf("VM %s runs: %w", m.vm, provisioner.ErrUnavailable)
		}
		p.setStopped(m.vm.ID, true)
		if err := p.grow(ctx, m.vm, m.cfg, m.cfg.Digest(), size.DiskMB); err != nil {
			return err
		}
		m, err := p.claim(ctx, m.vm, ref.Sandbox) // whose digest the new disk has changed
		if err != nil {
			return err
		}
		return p.relabel(ctx, m, papers, sized(m.cfg, size))
	})
}

// sized returns the options of a config for a size. With more processors than cores,
// or a balloon that is more than the memory, a machine would not start.
func sized(cfg pve.Config, size provisioner.Size) map[string]string {
	options := map[string]string{}
	if cores := strconv.Itoa(size.Cores); size.Cores > 0 {
		options["cores"], options["sockets"] = cores, "1"
		if cfg.Int("vcpus") > size.Cores {
			options["vcpus"] = cores
		}
	}
	if memory := strconv.Itoa(size.MemoryMB); size.MemoryMB > 0 {
		options["memory"] = memory
		if cfg.Int("balloon") > size.MemoryMB {
			options["balloon"] = memory
		}
	}
	return options
}

// switched does something about what a machine does now, once its live papers
// agree with ref.
func (p *Provisioner) switched(ctx context.Context, doing string, ref provisioner.Ref, do func(context.Context, live, pve.Status) error) error {
	p.init()
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.find(ctx, ref)
	if err == nil && m.stage != whole {
		err = fmt.Errorf("VM %s was never started: %w", m.vm, provisioner.ErrInvalid)
	}
	var s pve.Status
	if err == nil {
		s, err = p.Client.Status(ctx, m.vm)
	}
	if err == nil {
		err = do(ctx, m, s)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", doing, ref.Sandbox, sentinel(p.advise(err)))
	}
	return nil
}

// shutDown switches a machine off in good order. One that is managed by HA is off
// only some time after the task has ended.
func (p *Provisioner) shutDown(ctx context.Context, m live, s pve.Status) error {
	if s.Running() {
		call, cancel := steady(ctx, callTime)
		defer cancel()
		task, err := p.Client.Shutdown(call, m.vm, int(shutdownTime.Seconds()), true)
		if pve.Lost(err) { // it may be under way
			err = nil
		} else {
			err = p.await(ctx, task, err)
		}
		if err != nil {
			return err
		}
	}
	for wait := time.Duration(0); s.Running(); wait = p.grace {
		err := sleep(ctx, wait)
		if err == nil {
			s, err = p.Client.Status(ctx, m.vm)
		}
		if err != nil {
			return fmt.Errorf("wait for VM %s to be off: %w", m.vm, err)
		}
	}
	p.setStopped(m.vm.ID, true)
	return nil
}

// switchOn starts a machine that is off. Nothing that was known of its guest holds
// for the next one.
func (p *Provisioner) switchOn(ctx context.Context, m live, s pve.Status) error {
	if s.Running() {
		return nil
	}
	if err := p.start(ctx, m.vm); err != nil {
		if now, serr := p.Client.Status(ctx, m.vm); serr != nil || !now.Running() { // else somebody was faster
			return err
		}
	}
	p.setStopped(m.vm.ID, false)
	p.setTimes(m.vm.ID, time.Now(), time.Time{})
	return nil
}

// hold has a running machine paused, or not.
func (p *Provisioner) hold(ctx context.Context, m live, s pve.Status, paused bool, change func(context.Context, pve.VM) (pve.UPID, error)) error {
	if !s.Running() {
		return fmt.Errorf("VM %s is off: %w", m.vm, provisioner.ErrUnavailable)
	}
	if s.Paused() == paused {
		return nil
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := change(call, m.vm)
	if pve.Lost(err) { // it may have been done all the same
		if now, serr := p.Client.Status(call, m.vm); serr == nil && now.Paused() == paused {
			return nil
		}
	}
	return p.await(ctx, task, err)
}

// setStopped notes whether a machine is off, whose switch then is armed no more.
func (p *Provisioner) setStopped(id int, stopped bool) {
	p.mu.Lock()
	cur, ok := p.known[id]
	ok = ok && cur.stopped != stopped
	if ok {
		cur.stopped = stopped
		p.known[id] = cur
	}
	p.mu.Unlock()
	if ok && stopped {
		p.switches.forget(cur.papers.Sandbox)
	}
}
