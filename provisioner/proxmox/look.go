package proxmox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// inventory is the cluster as one call shows it. Names, tags and states in it
// are up to 10 s old; which machines there are is not.
type inventory struct {
	at       time.Time // when it was asked for
	vms      []pve.Resource
	storages []pve.Resource
	nodes    map[string]pve.Resource
}

// look asks for the cluster's inventory.
func (p *Provisioner) look(ctx context.Context) (*inventory, error) {
	inv := &inventory{at: time.Now(), nodes: map[string]pve.Resource{}}
	list, err := p.Client.Resources(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	for _, r := range list {
		switch r.Type {
		case "qemu", "lxc":
			inv.vms = append(inv.vms, r)
		case "storage":
			inv.storages = append(inv.storages, r)
		case "node":
			inv.nodes[r.Node] = r
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil || p.last.at.Before(inv.at) {
		p.last = inv
	}
	return inv, nil
}

// glance returns an inventory of the last second of which all that may be ours
// was read, for many callers the same.
func (p *Provisioner) glance(ctx context.Context) (*inventory, error) {
	p.mu.Lock()
	last := p.surveyed
	p.mu.Unlock()
	if last != nil && time.Since(last.at) < time.Second {
		return last, nil
	}
	result := p.looks.DoChan("look", func() (any, error) {
		shared, cancel := steady(ctx, callTime)
		defer cancel()
		inv, err := p.look(shared)
		if err == nil {
			_, _, err = p.survey(shared, inv, 0)
		}
		return inv, err
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*inventory), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (inv *inventory) vm(id int) (pve.Resource, bool) {
	i := slices.IndexFunc(inv.vms, func(r pve.Resource) bool { return int(r.VMID) == id })
	if i < 0 {
		return pve.Resource{}, false
	}
	return inv.vms[i], true
}

// online reports whether a node takes part in the cluster. Tokens that may not
// see nodes are told so of all. One whose statistics daemon hangs has the status
// "unknown", and takes part (PVE/API2Tools.pm).
func (inv *inventory) online(node string) bool {
	n, ok := inv.nodes[node]
	return ok && n.Status != "offline"
}

// mute reports whether nothing is broadcast of a node that is online: its
// machines have neither names nor states then, and its storages no status.
func (inv *inventory) mute(node string) bool { return inv.nodes[node].Status == "unknown" }

// live is a machine of ours as its config says at this moment.
type live struct {
	vm     pve.VM
	cfg    pve.Config
	papers provisioner.Papers
	stage  stage
}

var (
	// errHidden: there is such a machine, on another node or where we see nothing.
	errHidden = errors.New("machine can't be seen")
	// errCloning: the machine is being cloned and has no papers yet.
	errCloning = errors.New("machine is being cloned")
	// errDark: machines that may be the one can't be read now.
	errDark = errors.New("machines that may be it can't be read now")
)

// inspect reads the config of a machine and checks that it is ours.
//
// Errors: ErrNotFound, ErrNotOurs, errHidden, errCloning.
func (p *Provisioner) inspect(ctx context.Context, vm pve.VM) (live, error) {
	m := live{vm: vm}
	var err error
	m.cfg, err = p.Client.Config(ctx, vm)
	switch {
	case err == nil:
	case pve.Gone(err, vm), errors.Is(err, pve.Permission):
		// A machine that left our pool with its death gives 403 (measured).
		return m, p.missing(ctx, vm, err)
	default:
		return m, err
	}
	m.papers, m.stage, err = p.open(vm.ID, m.cfg)
	if err != nil && m.cfg["lock"] == "clone" {
		return m, fmt.Errorf("VM %d: %w", vm.ID, errCloning)
	}
	return m, err
}

// missing says whether a machine whose config can't be had is gone.
func (p *Provisioner) missing(ctx context.Context, vm pve.VM, why error) error {
	err := p.Client.IDFree(ctx, vm.ID)
	switch {
	case err == nil:
		return fmt.Errorf("VM %d: %w", vm.ID, provisioner.ErrNotFound)
	case pve.Taken(err, vm.ID):
		return fmt.Errorf("VM %s: %w: %w", vm, errHidden, why)
	}
	return err
}

// find returns the machine that ref names, once its live papers agree with ref.
func (p *Provisioner) find(ctx context.Context, ref provisioner.Ref) (live, error) {
	if ref.Handle == "" {
		return p.search(ctx, ref.Sandbox)
	}
	h, err := parseHandle(ref.Handle)
	if err != nil {
		return live{}, err
	}
	m, err := p.locate(ctx, h.id)
	if err == nil && m.papers.Sandbox != ref.Sandbox {
		return m, fmt.Errorf("VM %d has the papers of %s: %w", h.id, m.papers.Sandbox, provisioner.ErrNotOurs)
	}
	return m, err
}

// search returns the machine of a sandbox of which no handle is known. Only if
// all that may be it could be looked at is there none.
//
// Errors: ErrNotFound, errDark; those of inspect.
func (p *Provisioner) search(ctx context.Context, sandbox string) (live, error) {
	inv, err := p.look(ctx)
	if err != nil {
		return live{}, err
	}
	found, dark, err := p.survey(ctx, inv, 0)
	if err != nil {
		return live{}, err
	}
	for _, e := range found {
		if e.papers.Sandbox == sandbox {
			return p.inspect(ctx, e.vm)
		}
	}
	if len(dark) > 0 {
		return live{}, fmt.Errorf("%w: %s", errDark, places(dark))
	}
	if err := p.sighted(ctx); err != nil {
		return live{}, err
	}
	return live{}, provisioner.ErrNotFound
}

// places says of machines where they are.
func places(all []pve.Resource) string {
	var names []string
	for _, r := range all {
		names = append(names, r.VM().String())
	}
	slices.Sort(names)
	const most = 5
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

// locate finds the node of a machine and inspects it there.
func (p *Provisioner) locate(ctx context.Context, id int) (live, error) {
	p.mu.Lock()
	e, ok := p.known[id]
	p.mu.Unlock()
	if ok {
		m, err := p.inspect(ctx, e.vm)
		if !errors.Is(err, errHidden) {
			return m, err
		}
	}
	inv, err := p.look(ctx)
	if err != nil {
		return live{}, err
	}
	if r, ok := inv.vm(id); ok {
		return p.inspect(ctx, r.VM())
	}
	// Not listed: gone, or nothing that we may see. Only if we do see our pool
	// is the latter another's machine, under an ID that was ours once.
	if err := p.Client.IDFree(ctx, id); !pve.Taken(err, id) {
		if err == nil {
			err = fmt.Errorf("VM %d: %w", id, provisioner.ErrNotFound)
		}
		return live{}, err
	}
	if err := p.sighted(ctx); err != nil {
		return live{}, err
	}
	return live{}, fmt.Errorf("VM %d is another's now: %w", id, provisioner.ErrNotFound)
}

// sighted returns nil if we see the machines of our pool, so that one that is
// not seen is not there.
func (p *Provisioner) sighted(ctx context.Context) error {
	perms, err := p.Client.Permissions(ctx, "/pool/"+p.Pool)
	if err != nil {
		return err
	}
	if _, ok := perms["/pool/"+p.Pool]["VM.Audit"]; !ok {
		return fmt.Errorf("the token can't see the machines of pool %s: give it VM.Audit on /pool/%s: %w", p.Pool, p.Pool, provisioner.ErrUnavailable)
	}
	return nil
}
