package proxmox

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Check implements [provisioner.Checker].
func (p *Provisioner) Check(ctx context.Context) error {
	p.init()
	if err := p.check(ctx); err != nil {
		return fmt.Errorf("%w: %w", err, provisioner.ErrUnavailable)
	}
	return nil
}

func (p *Provisioner) check(ctx context.Context) error {
	v, err := p.Client.Version(ctx)
	if err != nil {
		return fmt.Errorf("reach Proxmox VE: %w", err)
	}
	if !v.AtLeast(8, 2) {
		return fmt.Errorf("version %v of Proxmox VE is too old: upgrade to 8.2 or later", v)
	}
	if p.VMIDs.First < 100 || p.VMIDs.Last < p.VMIDs.First {
		return fmt.Errorf("VMIDs are %v: set a range from 100 on that only AgentLab uses", p.VMIDs)
	}
	if _, err := p.Client.Pool(ctx, p.Pool); err != nil {
		if errors.Is(err, pve.NotFound) || errors.Is(err, pve.Permission) {
			err = fmt.Errorf("%w: run agentlab proxmox setup, or pvesh create /pools --poolid %s and give the token its rights there", err, p.Pool)
		}
		return fmt.Errorf("pool %q: %w", p.Pool, err)
	}
	if err := p.sighted(ctx); err != nil {
		return err
	}
	inv, err := p.look(ctx)
	if err != nil || p.Template == "" { // then every Spec names its own
		return err
	}
	_, err = p.sites(ctx, inv, provisioner.Spec{})
	return err
}
