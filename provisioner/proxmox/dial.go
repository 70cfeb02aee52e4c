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
	conn, err := p.enter(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, guest.ErrUnreachable)
	}
	return conn, nil
}

// booted waits for a guest's agent to answer.
func (p *Provisioner) booted(ctx context.Context, m live) error {
	err := p.prober.wait(ctx, m.vm, m.papers.Profile, p.startOf(m.vm.ID))
	if err == nil {
		p.setStart(m.vm.ID, time.Time{})
	}
	return err
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
