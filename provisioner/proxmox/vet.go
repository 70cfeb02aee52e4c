package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Vet implements [provisioner.Vetter]. One node that can do it is enough.
func (p *Provisioner) Vet(ctx context.Context, spec provisioner.Spec) error {
	p.init()
	spec.Papers = provisioner.Papers{Sandbox: "vetted", Instance: p.Instance}
	if err := p.validate(spec); err != nil {
		return err
	}
	if err := p.vet(ctx, spec); err != nil {
		return sentinel(p.advise(err))
	}
	return nil
}

func (p *Provisioner) vet(ctx context.Context, spec provisioner.Spec) error {
	root, err := p.parseRoot(spec.Root)
	if err != nil {
		return err
	}
	inv, err := p.look(ctx)
	if err != nil {
		return err
	}
	sites, err := p.sites(ctx, inv, spec)
	if err != nil {
		return err
	}
	var why []string
	for _, s := range sites {
		err := errors.Join(fits(inv.nodes[s.node], spec), takes(inv, s.node, root.storage))
		if err == nil {
			err = p.bridged(ctx, inv, s, spec.Network)
		}
		if err == nil {
			return nil
		}
		why = append(why, strings.Split(err.Error(), "\n")...)
	}
	slices.Sort(why)
	return fmt.Errorf("%s: %w", strings.Join(slices.Compact(why), "; "), provisioner.ErrInvalid)
}

// fits says whether a node has enough at all, as far as the token sees that. A
// machine of more cores than its node has does not start.
func fits(node pve.Resource, spec provisioner.Spec) error {
	var errs []error
	if has := int(node.MaxCPU); has > 0 && spec.Cores > has {
		errs = append(errs, fmt.Errorf("%d cores are more than the %d of node %s", spec.Cores, has, node.Node))
	}
	if has := int(node.MaxMem >> 20); has > 0 && spec.MemoryMB > has {
		errs = append(errs, fmt.Errorf("%d MB of memory are more than the %d of node %s", spec.MemoryMB, has, node.Node))
	}
	return errors.Join(errs...)
}

// takes says whether the disk of a full clone can be on that storage of a node;
// an empty one is that of the template.
func takes(inv *inventory, node, storage string) error {
	if storage == "" {
		return nil
	}
	s := inv.storage(storage, node)
	switch {
	case s.Node == "":
		return fmt.Errorf("storage %s is not to be seen on node %s: correct the name, or give the token Datastore.AllocateSpace and Datastore.Audit on /storage/%s", storage, node, storage)
	case s.Content != "" && !slices.Contains(strings.Split(s.Content, ","), "images"):
		return fmt.Errorf("storage %s takes no disks: run on a node: pvesh set /storage/%s --content %s,images", storage, storage, s.Content)
	}
	return nil
}

// bridged says whether a machine's network card can be connected on a node.
func (p *Provisioner) bridged(ctx context.Context, inv *inventory, s site, network string) error {
	if network != "internet" {
		return nil
	}
	t, err := p.template(ctx, inv, s.template)
	if err != nil {
		return err
	}
	bridge := cmp.Or(p.Bridge, pve.ParseProperties(t.cfg["net0"]).Get("bridge"))
	list, err := p.Client.Bridges(ctx, s.node)
	if err != nil {
		return fmt.Errorf("list the bridges of node %s: %w", s.node, err)
	}
	if bridge == "" || slices.ContainsFunc(list, func(b pve.Bridge) bool { return b.Name == bridge }) {
		return nil
	}
	return fmt.Errorf("bridge %s is not to be seen on node %s: make it there, set proxmox_bridge to another, or give the token SDN.Use", bridge, s.node)
}
