package proxmox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Dial implements [provisioner.Provisioner].
func (p *Provisioner) Dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	p.init()
	conn, err := p.dial(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", ref.Sandbox, err)
	}
	return conn, nil
}

func (p *Provisioner) dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	m, err := p.owned(ctx, ref)
	if err != nil {
		return nil, err
	}
	found := time.Now()
	if err := p.booted(ctx, m); err != nil {
		return nil, fmt.Errorf("wait for guest to boot: %w", p.unreached(err))
	}
	p.arm(m.vm, m.papers)
	conn, err := p.enter(ctx, m, ref, found)
	if err != nil {
		return nil, p.unreached(err)
	}
	return conn, nil
}

// owned is find for who wants into the guest.
//
// Errors: ErrNotFound, ErrNotOurs; those of unreached.
func (p *Provisioner) owned(ctx context.Context, ref provisioner.Ref) (live, error) {
	m, err := p.find(ctx, ref)
	if err != nil && !errors.Is(err, provisioner.ErrNotFound) && !errors.Is(err, provisioner.ErrNotOurs) {
		err = p.unreached(err)
	}
	return m, err
}

// seenUp is how long a guest that was seen to be up needs not be asked again.
const seenUp = 2 * time.Second

// booted waits for a guest's agent to answer.
func (p *Provisioner) booted(ctx context.Context, m live) error {
	started, up := p.timesOf(m.vm.ID)
	if time.Since(up) < seenUp {
		return nil
	}
	if err := p.prober.wait(ctx, m.vm, m.papers.Profile, started); err != nil {
		return err
	}
	p.setTimes(m.vm.ID, time.Time{}, time.Now())
	return nil
}

// defaultBootTime is what a guest may take to come up before another node is
// tried, if there is one.
const defaultBootTime = 3 * time.Minute

// comeUp waits for a guest to boot. If there are other nodes to try, they must
// get their share of the time that is left.
func (p *Provisioner) comeUp(ctx context.Context, m live, others bool) error {
	if !others {
		return p.booted(ctx, m)
	}
	limit := p.bootTime
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return p.booted(limited, m)
}

// ping asks a guest's agent whether it is there, once, when it is its turn.
func (p *Provisioner) ping(ctx context.Context, vm pve.VM) (asked time.Time, err error) {
	release, err := p.agents.AcquireProbe(ctx, vm.Node)
	if err != nil {
		return time.Time{}, err
	}
	defer release()
	return time.Now(), p.Client.AgentPing(ctx, vm)
}

// timesOf returns when we started a machine that was not up since, else zero,
// and when it was seen to be up last.
func (p *Provisioner) timesOf(id int) (started, up time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id].started, p.known[id].up
}

func (p *Provisioner) setTimes(id int, started, up time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.known[id]; ok {
		e.started, e.up = started, up
		p.known[id] = e
	}
}
