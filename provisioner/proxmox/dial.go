package proxmox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// probePause is between looks for a guest's agent, also when Proxmox says at
// once that it does not answer.
const probePause = 250 * time.Millisecond

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
	m, err := p.find(ctx, ref)
	switch {
	case errors.Is(err, provisioner.ErrNotFound), errors.Is(err, provisioner.ErrNotOurs):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", err, guest.ErrUnreachable)
	}
	if err := p.booted(ctx, m); err != nil {
		return nil, fmt.Errorf("wait for guest to boot: %w: %w", err, guest.ErrUnreachable)
	}
	return agentconn.New(agentconn.Config{Client: p.Client, VM: m.vm, Limiter: &p.agents, User: p.user(m.papers.Profile)}), nil
}

// booted waits for a guest's agent to answer. A question that is asked before
// the agent listens is answered as soon as it does, so that one in flight costs
// no time; but it holds a worker, so there is one for each node, and none before
// guests of that profile have ever been up.
func (p *Provisioner) booted(ctx context.Context, m live) error {
	started := p.startOf(m.vm.ID)
	if err := sleep(ctx, time.Until(started.Add(p.boots.soonest(m.papers.Profile)))); err != nil {
		return err
	}
	for {
		err := p.probe(ctx, m.vm)
		switch {
		case err == nil:
			if !started.IsZero() {
				p.boots.add(m.papers.Profile, time.Since(started))
				p.setStart(m.vm.ID, time.Time{})
			}
			return nil
		case !errors.Is(err, pve.AgentNotRunning), ctx.Err() != nil:
			return err
		}
		if err := sleep(ctx, probePause); err != nil {
			return err
		}
	}
}

func (p *Provisioner) probe(ctx context.Context, vm pve.VM) error {
	release, err := p.agents.AcquireProbe(ctx, vm.Node)
	if err != nil {
		return err
	}
	defer release()
	return p.Client.AgentPing(ctx, vm)
}

// startOf returns when we started a machine that was not up since, else zero.
func (p *Provisioner) startOf(id int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id].started
}

func (p *Provisioner) setStart(id int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.known[id]; ok {
		e.started = at
		p.known[id] = e
	}
}

// sleep waits for d and returns nil, or why ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// bootTimes remembers how long the latest guests of each profile took to boot.
type bootTimes struct {
	mu   sync.Mutex
	seen map[string][]time.Duration
}

func (b *bootTimes) add(profile string, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = map[string][]time.Duration{}
	}
	all := append(b.seen[profile], d)
	b.seen[profile] = all[max(0, len(all)-8):]
}

// soonest returns when it is worth to look for the first time.
func (b *bootTimes) soonest(profile string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen[profile]) == 0 {
		return 0
	}
	return slices.Min(b.seen[profile]) * 9 / 10
}
