package proxmox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// templateAge is how long what was read of a template is believed.
const templateAge = time.Minute

// knownTemplate is a template as it was read.
type knownTemplate struct {
	vm    pve.VM
	cfg   pve.Config
	disks []disk
	cds   []disk // CD images in its drives, which clones share
	read  time.Time
}

// disk is one that a clone of the template gets.
type disk struct {
	option    string // scsi0
	storage   pve.Resource
	cloudinit bool
}

// template returns a template by its ID.
func (p *Provisioner) template(ctx context.Context, inv *inventory, vm pve.VM) (knownTemplate, error) {
	p.mu.Lock()
	t, ok := p.templates[vm.ID]
	p.mu.Unlock()
	if ok && t.vm == vm && time.Since(t.read) < templateAge {
		return t, nil
	}
	result := p.looks.DoChan(vm.String(), func() (any, error) {
		shared, cancel := steady(ctx, callTime)
		defer cancel()
		var t knownTemplate
		err := p.askNode(shared, inv, vm.Node, func(ctx context.Context) (err error) {
			t, err = p.readTemplate(ctx, inv, vm)
			return err
		})
		return t, err
	})
	select {
	case r := <-result:
		return r.Val.(knownTemplate), r.Err
	case <-ctx.Done():
		return t, ctx.Err()
	}
}

func (p *Provisioner) readTemplate(ctx context.Context, inv *inventory, vm pve.VM) (knownTemplate, error) {
	cfg, err := p.Client.Config(ctx, vm)
	if err != nil {
		return knownTemplate{}, fmt.Errorf("read template %s: %w", vm, err)
	}
	t := knownTemplate{vm: vm, cfg: cfg, read: time.Now()}
	for _, option := range cfg.Drives() {
		props := pve.ParseProperties(cfg[option])
		storage, volume, ok := strings.Cut(props.First(), ":")
		cloudinit := strings.Contains(volume, "cloudinit")
		d := disk{option, inv.storage(storage, vm.Node), cloudinit}
		switch {
		case !ok || strings.HasPrefix(option, "unused"):
		case props.Get("media") == "cdrom" && !cloudinit:
			t.cds = append(t.cds, d)
		default:
			t.disks = append(t.disks, d)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.templates[vm.ID] = t
	return t, nil
}

// storage returns a storage as a node sees it; one that the token does not see
// has nothing but its name.
func (inv *inventory) storage(name, node string) pve.Resource {
	for _, r := range inv.storages {
		if r.Storage == name && r.Node == node {
			return r
		}
	}
	return pve.Resource{Storage: name}
}

// usable returns nil if machines can be made of the template, or what is wrong
// with it and how to mend that.
func (t knownTemplate) usable(r root) error {
	var errs []error
	for _, f := range t.flaws(r) {
		errs = append(errs, fmt.Errorf("template %s %w", t.vm, f))
	}
	return errors.Join(errs...)
}

// flaws returns why no machine can be made of the template.
func (t knownTemplate) flaws(r root) (all []Flaw) {
	machine := fmt.Sprintf("/nodes/%s/qemu/%d", t.vm.Node, t.vm.ID)
	if !t.cfg.Template() {
		all = append(all, Flaw{What: "is an ordinary machine", Run: "pvesh create " + machine + "/template"})
	}
	if !t.cfg.AgentEnabled() {
		all = append(all, Flaw{What: "has the guest agent switched off (qemu-guest-agent must be installed in it, too)", Run: "pvesh set " + machine + "/config --agent enabled=1"})
	}
	var linked, system []disk // a clone copies the other disks whole, always
	for _, d := range t.disks {
		if !d.cloudinit && !strings.HasPrefix(d.option, "tpmstate") {
			linked = append(linked, d)
		}
		if !d.cloudinit && !stateDisk.MatchString(d.option) {
			system = append(system, d)
		}
	}
	switch {
	case len(system) == 0:
		all = append(all, Flaw{What: "has no disk", Do: "make another as docs/proxmox.md says"})
	case !slices.ContainsFunc(t.disks, func(d disk) bool { return d.cloudinit }):
		all = append(all, Flaw{What: "has no cloud-init drive", Run: fmt.Sprintf("pvesh set %s/config --ide2 %s:cloudinit", machine, system[0].storage.Storage)})
	}
	for _, d := range linked {
		if !r.full && !pve.Linkable(d.storage.PluginType) {
			all = append(all, Flaw{
				What: fmt.Sprintf("has %s on storage %s, whose type %s makes no linked clones", d.option, d.storage.Storage, d.storage.PluginType),
				Do:   "move the disk to another storage, or make full clones: clone: full in the profile",
			})
		}
	}
	return all
}

// nodes returns where clones of the template can be made: on its own node, and
// if all its disks and CD images are on shared storage, on all that have this
// storage (PVE/API2/Qemu.pm clone_vm).
func (t knownTemplate) nodes(inv *inventory) []string {
	nodes := []string{t.vm.Node}
	for name := range inv.nodes {
		reaches := func(d disk) bool {
			s := inv.storage(d.storage.Storage, name)
			return bool(s.Shared) && (s.Status == "available" || inv.mute(name))
		}
		everywhere := !slices.ContainsFunc(slices.Concat(t.disks, t.cds), func(d disk) bool { return !reaches(d) })
		if name != t.vm.Node && inv.online(name) && everywhere {
			nodes = append(nodes, name)
		}
	}
	return nodes
}

// bootDisk returns the option and size in MB of the disk that is booted from:
// the first in the boot order, the one that machines from before PVE 6.2 name,
// or else the first there is.
func bootDisk(cfg pve.Config) (option string, mb int64) {
	names := append(strings.Split(pve.ParseProperties(cfg["boot"]).Get("order"), ";"), cfg["bootdisk"])
	for _, name := range append(names, cfg.Drives()...) {
		props := pve.ParseProperties(cfg[name])
		if props.Get("media") == "cdrom" || props.Get("size") == "" || stateDisk.MatchString(name) {
			continue
		}
		return name, sizeMB(props.Get("size"))
	}
	return "", 0
}

// stateDisk are disks that are none of the guest's.
var stateDisk = regexp.MustCompile(`^(efidisk|tpmstate|unused)`)

// sizeMB reads a size as PVE writes it: a number and K, M, G or T.
func sizeMB(s string) int64 {
	var n float64
	var unit string
	_, _ = fmt.Sscanf(s, "%g%s", &n, &unit) // what is not understood is 0
	scale := map[string]float64{"": 1.0 / (1 << 20), "K": 1.0 / (1 << 10), "M": 1, "G": 1 << 10, "T": 1 << 20}
	return int64(n * scale[unit])
}
