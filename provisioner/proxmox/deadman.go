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
	armPause = time.Second // a guest that has just come up is being used
	armTime  = 20 * time.Second
	armRest  = 15 * time.Second // after a failure, and twice as long after the next
	armTries = 8                // after which it is no longer
)

// switches are what is known of guests' switches, by sandbox.
type switches struct {
	mu  sync.Mutex
	all map[string]*armedSwitch
}

type armedSwitch struct {
	end    time.Time // of the papers that it was armed by
	busy   bool
	missed int       // how often it could not be armed since it was
	next   time.Time // not to be tried before
}

// begin says whether a switch is to be armed now; who is told so calls end.
func (s *switches) begin(sandbox string, end time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*armedSwitch{}
	}
	a := s.all[sandbox]
	if a == nil {
		a = &armedSwitch{}
		s.all[sandbox] = a
	}
	if a.busy || a.end.Equal(end) || time.Now().Before(a.next) {
		return false
	}
	a.busy = true
	return true
}

// end notes what came of it, and returns how often it has failed.
func (s *switches) end(sandbox string, end time.Time, err error) (missed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.all[sandbox]
	if a == nil {
		return 0 // it is gone
	}
	a.busy = false
	if err == nil {
		a.end, a.missed, a.next = end, 0, time.Time{}
		return 0
	}
	a.next = time.Now().Add(armRest << min(a.missed, armTries))
	a.missed++
	return a.missed
}

// note is for who has armed one otherwise.
func (s *switches) note(sandbox string, end time.Time) {
	s.begin(sandbox, end)
	s.end(sandbox, end, nil)
}

func (s *switches) forget(sandbox string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sandbox)
}

// arm has the switch of a running guest follow its machine's papers, soon.
func (p *Provisioner) arm(vm pve.VM, papers provisioner.Papers) {
	if p.PowerOff <= 0 || papers.End.IsZero() || !p.armed.begin(papers.Sandbox, papers.End) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), armPause+armTime)
		defer cancel()
		err := sleep(ctx, armPause)
		if err == nil {
			err = p.armNow(ctx, vm, papers)
		}
		if missed := p.armed.end(papers.Sandbox, papers.End, err); missed == 1 {
			p.log.InfoContext(ctx, "a guest was not told when to power itself off; it is told later", "sandbox", papers.Sandbox, "vm", vm, "err", err)
		}
	}()
}

func (p *Provisioner) armNow(ctx context.Context, vm pve.VM, papers provisioner.Papers) error {
	unlock, err := p.arming.Lock(ctx, vm.Node)
	if err != nil {
		return err
	}
	defer unlock()
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
