package histories

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// records are those that did not end, and those of all boxes.
func (p *player) records() ([]sessions.Sandbox, error) {
	ctx := context.Background()
	if len(p.lab.daemons) == 0 {
		return nil, nil
	}
	db := p.lab.daemons[len(p.lab.daemons)-1].db
	all, err := db.List(ctx, sessions.Query{Ending: true})
	if err != nil {
		return nil, err
	}
	for _, b := range p.boxes {
		if slices.ContainsFunc(all, func(sb sessions.Sandbox) bool { return sb.ID == b.id }) {
			continue
		}
		sb, err := db.Sandbox(ctx, b.id)
		if err != nil {
			return nil, fmt.Errorf("a record is lost: %w", err)
		}
		all = append(all, sb)
	}
	return all, nil
}

// look looks whether all holds, at a time when nothing is being done.
func (p *player) look() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, err := p.records()
	if err != nil {
		return err
	}
	p.recorded(all, max(p.lab.pool, p.lab.kept), p.lab.now())
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	for _, what := range p.lab.touched {
		p.broke("touched, though another's: %s", what)
	}
	if len(p.broken) > 0 {
		return fmt.Errorf("%s", strings.Join(p.broken, "\n"))
	}
	return nil
}

// recordsOf are those that name a VM as their machine.
func (p *player) recordsOf(id int) []sessions.Sandbox {
	all, err := p.records()
	if err != nil {
		p.broke("look for the records of VM %d: %v", id, err)
	}
	return slices.DeleteFunc(all, func(sb sessions.Sandbox) bool { return sb.Handle != fmt.Sprint(id) })
}

// deleting looks at each of our calls that deletes a machine: it must not be that
// of a sandbox which is in time.
func (p *player) deleting(id int) {
	p.lab.free(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sb := range p.recordsOf(id) {
		ours := slices.ContainsFunc(p.lab.machines(sb.ID), func(vm pve.VM) bool { return vm.ID == id })
		if ours && (usable(sb) || atRest(sb)) && p.lab.now().Before(sb.End) && !p.passed(sb) {
			p.broke("the machine %d of %s is deleted, which is %s until %v", id, sb.ID, sb.State, sb.End)
		}
	}
}

// armed looks at when a machine is to power itself off: some time after its end. One
// that has just been given another is told anew.
func (p *player) armed(id int, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sb := range p.recordsOf(id) {
		b, due := p.find(sb.ID), sb.End.Add(p.lab.powerOff-time.Second)
		moved := p.leaps > 0 || b != nil && (b.extends > 0 || time.Since(b.extended) < 10*time.Second)
		if sb.State.Live() && !moved && p.lab.now().Add(after).Before(due) {
			p.broke("%s ends at %v, and is to power itself off in %v", sb.ID, sb.End, after)
		}
	}
}

// fired notes that a machine powers itself off, for nobody came to it after its end.
// It does not if the clock has jumped: switches are armed by another clock than ours.
func (p *player) fired(id int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaps > 0 {
		return false
	}
	p.fires++
	for _, sb := range p.recordsOf(id) {
		if b := p.find(sb.ID); b != nil {
			b.doubt = true // its end may have been moved, and no daemon was there to tell it
		}
	}
	return true
}

// passed says that a clock has told that the end of sb has come, or may have.
func (p *player) passed(sb sessions.Sandbox) bool {
	if sb.Pooled() {
		return p.leaps > 0
	}
	return p.meet(sb).past
}

// calmDown is longer than anything may go on when all trouble is over: what was
// given up is tried again after five minutes at most, and what is made takes no
// longer than five, of which undoing it takes three more.
const calmDown = 15 * time.Minute

// settle ends a history: all trouble is over, and what there is must agree.
// Then the sandboxes end, one half by their owners and one by their time, and
// nothing may be left.
func (p *player) settle() error {
	l := p.lab
	p.under.Wait()
	l.lift()
	l.bury()
	if err := l.start(); err != nil {
		return err
	}
	time.Sleep(calmDown)
	if err := p.agree(); err != nil {
		return err
	}
	if err := p.filled(); err != nil {
		return err
	}
	if err := p.wake(); err != nil {
		return err
	}
	l.stop() // what is in the pool is drained by one that has none
	l.kept, l.pool = l.pool, 0
	if err := l.start(); err != nil {
		return err
	}
	for n, b := range slices.Clone(p.boxes) {
		if n%2 == 0 {
			p.callAbout(step{do: destroy, who: slices.Index(principals, b.owner)}, b)
		}
	}
	p.under.Wait()
	time.Sleep(2 * time.Minute)
	l.kept = 0
	if err := p.agree(); err != nil {
		return err
	}
	all, err := p.records()
	if err != nil {
		return err
	}
	left := time.Duration(0)
	for _, sb := range all {
		if sb.State.Live() {
			left = max(left, sb.End.Sub(l.now()))
		}
	}
	time.Sleep(left + 2*time.Minute) // the second of which is for its machine to be gone
	if err := p.agree(); err != nil {
		return err
	}
	p.leaks = append(p.leaks, l.sim.Changed()...)
	return leaked(p.leaks)
}

// wake switches each machine on that is off, for half of which the time then ends.
func (p *player) wake() error {
	all, err := p.records()
	if err != nil {
		return err
	}
	var woken []string
	for _, sb := range all {
		if b := p.find(sb.ID); b != nil && atRest(sb) {
			woken = append(woken, sb.ID)
			p.callAbout(step{do: on, who: slices.Index(principals, b.owner), time: time.Minute}, b)
		}
	}
	p.under.Wait()
	if all, err = p.records(); err != nil {
		return err
	}
	for _, sb := range all {
		if slices.Contains(woken, sb.ID) && sb.State.Live() && !usable(sb) {
			return fmt.Errorf("%s was switched on, and is %s (%s)", sb.ID, sb.State, sb.Reason)
		}
	}
	return p.agree()
}

// filled looks whether the pool has what it is to have. The oldest may be being replaced.
func (p *player) filled() error {
	all, err := p.records()
	if err != nil {
		return err
	}
	ready := 0
	for _, sb := range all {
		if sb.Pooled() && usable(sb) {
			ready++
		}
	}
	if ready < p.lab.pool {
		return fmt.Errorf("a pool of %d has %d members that are READY", p.lab.pool, ready)
	}
	return nil
}

func leaked(what []string) error {
	if len(what) == 0 {
		return nil
	}
	return fmt.Errorf("left:\n%s", strings.Join(what, "\n"))
}

// agree looks whether each record has its machine, each machine its record, and
// nothing is under way.
func (p *player) agree() error {
	if err := p.look(); err != nil {
		return err
	}
	all, err := p.records()
	if err != nil {
		return err
	}
	owned := map[int]bool{}
	for _, sb := range all {
		vms := p.lab.machines(sb.ID)
		for _, vm := range vms {
			owned[vm.ID] = true
		}
		justEnded := sb.State != sessions.Destroyed && !sb.State.Live() && p.lab.now().Sub(sb.Ended) < time.Minute
		if sb.Pooled() && sb.State.Live() && !usable(sb) {
			continue // it takes another's place
		}
		b := p.find(sb.ID)
		rests := atRest(sb) && b != nil && (b.off || b.doubt)
		switch ok := (usable(sb) || rests) && len(vms) == 1 || sb.State == sessions.Destroyed && len(vms) == 0; {
		case !ok && !justEnded:
			p.leaks = append(p.leaks, fmt.Sprintf("%s is %s (%s), with the machines %v", sb.ID, sb.State, sb.Reason, vms))
		case sb.State.Live() && p.lab.runs(vms[0].ID) == (sb.State == sessions.Stopped):
			p.leaks = append(p.leaks, fmt.Sprintf("%s is %s (%s), and its machine runs: %v", sb.ID, sb.State, sb.Reason, p.lab.runs(vms[0].ID)))
		case sb.State.Live() && sb.Handle != fmt.Sprint(vms[0].ID):
			p.leaks = append(p.leaks, fmt.Sprintf("%s is recorded as VM %s and is %v", sb.ID, sb.Handle, vms))
		}
	}
	p.lab.sim.Server.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			if !owned[id] && !p.lab.foreign[id] {
				p.leaks = append(p.leaks, fmt.Sprintf("VM %d has no record: %v", id, vm.Config))
			}
		}
	})
	return leaked(p.leaks)
}
