package proxmox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// A guest whose end has come is destroyed by us. If we are no more, or have lost
// our key, nobody is left who may. So each guest has a switch that powers it off
// some time after its end, unless it is armed anew, which follows its papers.
//
// It is armed by the guest's agent, in the background: nobody waits for it. What
// fails is tried again with the next List.
const (
	armPause = time.Second           // a guest that has just come up is being used
	armGap   = 20 * time.Millisecond // between two guests of a node
	armTime  = 20 * time.Second
	armRest  = 15 * time.Second // after a failure, and twice as long after the next
	armTries = 8                // after which it is no longer
)

// switches are what is known of guests' switches, by sandbox.
type switches struct {
	mu     sync.Mutex
	all    map[string]*armedSwitch
	queues map[string][]toArm // by node, of which one guest is armed at a time
}

// toArm is a sandbox whose switch is to be armed, and not before when.
type toArm struct {
	sandbox string
	at      time.Time
}

// queue adds to what is to be armed on a node, and says whether nobody is at it.
func (s *switches) queue(node, sandbox string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues == nil {
		s.queues = map[string][]toArm{}
	}
	waiting, working := s.queues[node]
	s.queues[node] = append(waiting, toArm{sandbox, time.Now().Add(armPause)})
	return !working
}

// unqueue returns what is to be armed next on a node; if there is nothing, nobody
// is at it any more.
func (s *switches) unqueue(node string) (next toArm, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.queues[node]
	if len(waiting) == 0 {
		delete(s.queues, node)
		return next, false
	}
	s.queues[node] = waiting[1:]
	return waiting[0], true
}

type armedSwitch struct {
	vm     pve.VM
	papers provisioner.Papers // that it is to follow
	end    time.Time          // that it was armed for
	since  time.Time          // when that was, by the monotonic clock
	wall   time.Time          // and by that of the time of day, from which it was told how long
	busy   bool
	missed int       // how often it could not be armed since it was
	next   time.Time // not to be tried before
}

// clockSlack is how far the host's time of day may be set before switches are armed anew.
const clockSlack = time.Minute

// follows says that a switch is armed for the end on the papers, by a time of day
// that was not set since.
func (a *armedSwitch) follows() bool {
	now := time.Now()
	set := now.Round(0).Sub(a.wall) - now.Sub(a.since)
	return a.end.Equal(a.papers.End) && set.Abs() <= clockSlack
}

// follow notes what a switch is to follow, and says whether somebody has to see to
// it now, and goes on until wanted or failed ends it.
func (s *switches) follow(vm pve.VM, papers provisioner.Papers) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*armedSwitch{}
	}
	a := s.all[papers.Sandbox]
	if a == nil {
		a = &armedSwitch{}
		s.all[papers.Sandbox] = a
	}
	a.vm, a.papers = vm, papers
	if a.busy || a.follows() || time.Now().Before(a.next) {
		return false
	}
	a.busy = true
	return true
}

// wanted returns what a switch is to follow now; false if it does, or its machine
// is gone.
func (s *switches) wanted(sandbox string) (vm pve.VM, papers provisioner.Papers, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.all[sandbox]
	if a == nil {
		return vm, papers, false
	}
	a.busy = !a.follows()
	return a.vm, a.papers, a.busy
}

// armed notes for which end a switch was armed.
func (s *switches) armed(sandbox string, end time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.all[sandbox]; a != nil {
		now := time.Now()
		a.end, a.since, a.wall, a.missed, a.next = end, now, now.Round(0), 0, time.Time{}
	}
}

// failed notes that one could not be armed, and returns how often.
func (s *switches) failed(sandbox string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.all[sandbox]
	if a == nil {
		return 0
	}
	a.busy, a.next = false, time.Now().Add(armRest<<min(a.missed, armTries))
	a.missed++
	return a.missed
}

func (s *switches) forget(sandbox string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sandbox)
}

// arm has the switch of a running guest follow its machine's papers, soon.
func (p *Provisioner) arm(vm pve.VM, papers provisioner.Papers) {
	if p.PowerOff > 0 && !papers.End.IsZero() && p.switches.follow(vm, papers) {
		if p.switches.queue(vm.Node, papers.Sandbox) {
			go p.armQueued(vm.Node)
		}
	}
}

// armQueued sees to what is queued for a node, one after the other and with
// breathing spaces: there may be thousands, when a daemon starts, and others want
// something of the node.
func (p *Provisioner) armQueued(node string) {
	for {
		next, ok := p.switches.unqueue(node)
		if !ok {
			return
		}
		time.Sleep(time.Until(next.at))
		p.keepArmed(next.sandbox)
		time.Sleep(armGap)
	}
}

func (p *Provisioner) keepArmed(sandbox string) {
	for {
		vm, papers, ok := p.switches.wanted(sandbox)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), armTime)
		err := p.armNow(ctx, vm, papers)
		cancel()
		if err == nil {
			p.switches.armed(sandbox, papers.End)
			continue
		}
		if p.switches.failed(sandbox) == 1 {
			p.log.Info("a guest was not told when to power itself off; it is told later", "sandbox", sandbox, "vm", vm, "err", err)
		}
		return
	}
}

func (p *Provisioner) armNow(ctx context.Context, vm pve.VM, papers provisioner.Papers) error {
	ref := provisioner.Ref{Sandbox: papers.Sandbox, Handle: handle{id: vm.ID}.String()}
	conn, err := p.enterByAgent(live{vm: vm, papers: papers}, ref, time.Time{})
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Arm(ctx, p.switchOf(papers))
}

// switchOf is how the switch of a machine with these papers is armed now. A time
// of day means nothing to a guest whose clock may be wrong, so it is told how long.
func (p *Provisioner) switchOf(papers provisioner.Papers) agentconn.Switch {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return agentconn.Switch{ID: hex.EncodeToString(id), After: max(time.Until(papers.End), 0) + p.PowerOff}
}
