package histories

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// player plays one history.
type player struct {
	lab   *lab
	began time.Time
	under sync.WaitGroup // calls that are under way

	mu sync.Mutex // guards what follows
	model
	story []string // what happened, for people
	leaps int      // how often the clock jumped
	calls int      // that were made
	fires int      // machines that powered themselves off
	leaks []string // what was left of what ended
}

func (p *player) locked(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// tale is the story and how it ended, in which sandboxes have the numbers of the steps.
func (p *player) tale(end error) string {
	var pairs []string
	for n, b := range p.boxes {
		pairs = append(pairs, b.id, fmt.Sprint("sandbox-", n))
	}
	return strings.NewReplacer(pairs...).Replace(fmt.Sprintf("%v\n%s", end, strings.Join(p.story, "\n")))
}

// tell adds to the story.
func (p *player) tell(format string, args ...any) {
	p.story = append(p.story, fmt.Sprintf("%9.3fs ", time.Since(p.began).Seconds())+fmt.Sprintf(format, args...))
}

// play does one step. Calls go on when it returns.
func (p *player) play(s step) error {
	if s.do == sleep && s.time == 0 { // what is left of a step by shrinking
		return nil
	}
	if p.lab.bury() {
		p.locked(func() { p.tell("the daemon died") })
	}
	if _, ok := calls[s.do]; ok {
		if err := p.lab.start(); err != nil { // as any client does
			return err
		}
		p.call(s)
	} else {
		p.locked(func() { p.tell("%v", s) })
		p.happen(s)
	}
	synctest.Wait()
	return p.look()
}

// call lets a principal call, mostly about what is theirs. Where there is nothing
// that it could be about, something is made.
func (p *player) call(s step) {
	var b *box
	p.locked(func() {
		switch s.do {
		case exec, start, read, extend, destroy, off, on, hold:
			switch b = p.pick(s); {
			case b != nil && s.box%4 != 3:
				s.who = slices.Index(principals, b.owner)
			case b == nil:
				s = step{do: create, who: s.who, name: names[s.box%len(names)], time: time.Minute}
			}
		default: // it is about none
		}
	})
	p.callAbout(s, b)
}

// callAbout lets a principal call for a box.
func (p *player) callAbout(s step, b *box) {
	var n int
	c := &call{player: p, step: s, who: principals[s.who], daemon: p.lab.daemon, box: b, begun: p.lab.now()}
	p.locked(func() {
		c.safe = b != nil && b.certain(c.begun)
		p.calls++
		n, c.before = p.calls, p.leaps
		if b != nil {
			c.turned = b.turned
		}
		p.tell("%v (%d)", s, n)
	})
	p.under.Go(func() {
		ctx, cancel := context.WithTimeout(sessions.WithPrincipal(context.Background(), sessions.Principal{Name: c.who}), callLimit)
		defer cancel()
		began := time.Now()
		said, err := calls[s.do](c, ctx)
		took, limit := time.Since(began), limits[s.do]+s.time
		p.locked(func() {
			p.tell("   (%d) %s: %s %v", n, s.do, said, err)
			if took > limit {
				p.broke("%v took %v, %v at most", s, took, limit)
			}
		})
	})
}

// happen lets something happen to the daemon or the world.
func (p *player) happen(s step) {
	l := p.lab
	switch s.do {
	case sleep:
		time.Sleep(s.time)
	case jump:
		p.jump(s.time)
	case stop:
		l.stop()
	case vary:
		l.stop()
		l.cores = 3 - l.cores
	case intrude:
		l.intrude(s.n)
	case kill:
		l.kill()
	case lift:
		l.lift()
	case slay, wipe:
		p.slay(s)
	default:
		p.locked(func() { p.calm = false })
		l.spoil(s)
	}
}

// jump sets the clock that ends are told by. What was due before it was set back
// may have ended.
func (p *player) jump(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.lab.now()
	p.lab.mu.Lock()
	p.lab.offset += by
	p.lab.mu.Unlock()
	p.leaps++
	for _, b := range p.boxes {
		b.past = b.past || !was.Before(b.due) || !p.lab.now().Before(b.due)
		if b.extends > 0 && by < 0 {
			b.due = b.due.Add(by)
		}
	}
}

// spoil makes something go wrong from now on.
func (l *lab) spoil(s step) {
	l.sim.Server.Edit(func(c *pvetest.Cluster) {
		node := c.Nodes[s.n%len(c.Nodes)]
		switch s.do {
		case nodeDown:
			node.Down = true
		case nodeHung:
			node.Hung = true
		case nodeMute:
			node.Mute = true
		case storageFull:
			c.Storages[0].Full = true
		default: // below
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.do != fuse && s.do != wire && s.do != taskFails { // those count when they happen
		l.faults++
	}
	switch s.do {
	case fuse:
		l.fuse = s.n
	case wire:
		l.wrong, l.wrongs, l.quiet = s.way, s.n, s.box
	case taskFails:
		l.task, l.fails = tasks[s.box], s.n
	case diskFull:
		l.full = true
	default: // above
	}
}

// intrude makes a machine of somebody else's, of a VMID that was ours if it can.
func (l *lab) intrude(n int) {
	l.mu.Lock()
	id := vmids.First + 2 + n
	if len(l.freed) > 0 {
		id = l.freed[n%len(l.freed)]
	}
	l.mu.Unlock()
	if l.sim.Add(id) {
		l.mu.Lock()
		l.foreign[id] = true
		l.mu.Unlock()
	}
}

// slay does what an administrator may, who knows nothing of us.
func (p *player) slay(s step) {
	var b *box
	p.locked(func() {
		if b = p.pick(s); b != nil {
			b.doubt = true
		}
	})
	if b == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, vm := range p.lab.machines(b.id) {
		task, err := p.lab.admin.Stop(ctx, vm, pve.StopOptions{})
		if err == nil {
			_, err = p.lab.admin.Wait(ctx, task)
		}
		if err == nil && s.do == wipe {
			if task, err = p.lab.admin.Delete(ctx, vm); err == nil {
				_, err = p.lab.admin.Wait(ctx, task)
			}
			p.lab.free(vm.ID)
		}
		p.locked(func() { p.tell("   %v of %s: %v", s.do, b.id, err) })
	}
}

// machines are those that bear a sandbox's papers.
func (l *lab) machines(sandbox string) (all []pve.VM) {
	l.sim.Server.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			if strings.HasPrefix(vm.Config["description"], "AgentLab sandbox "+sandbox+".") {
				all = append(all, pve.VM{Node: vm.Node, ID: id})
			}
		}
	})
	return all
}

// runs says whether a VM runs.
func (l *lab) runs(id int) (yes bool) {
	l.sim.Server.Edit(func(c *pvetest.Cluster) { yes = c.VMs[id] != nil && c.VMs[id].Running })
	return yes
}
