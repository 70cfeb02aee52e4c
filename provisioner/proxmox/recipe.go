package proxmox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// aside are the options of a template that its clones do not have, or that say
// nothing of what they are.
var aside = []string{"digest", "description", "tags", "name", "protection", "onboot", "startup", "lock", "parent"}

// Recipe implements [provisioner.Pooler]: all of the configs of the templates that
// the spec's root names which makes a difference. A template that was made anew has
// other disks, or its meta option another time. One call is made for each. One that
// can't be read now counts as it was read last; if it never was, nothing can be said.
func (p *Provisioner) Recipe(ctx context.Context, spec provisioner.Spec) (string, error) {
	p.init()
	recipe, err := p.recipe(ctx, spec)
	if err != nil {
		return "", fmt.Errorf("recipe of %q: %w", spec.Root, sentinel(p.advise(err)))
	}
	return recipe, nil
}

func (p *Provisioner) recipe(ctx context.Context, spec provisioner.Spec) (string, error) {
	if err := p.validate(spec); err != nil {
		return "", err
	}
	root, err := p.parseRoot(spec.Root)
	if err != nil {
		return "", err
	}
	inv, err := p.glance(ctx)
	if err != nil {
		return "", err
	}
	matches := p.matching(inv, root)
	byID := slices.ContainsFunc(matches, func(r pve.Resource) bool { return strconv.Itoa(int(r.VMID)) == root.name })
	if vm, found := p.nameless(inv); found && !byID {
		return "", fmt.Errorf("VM %s may be a template %q, too, but has no name now, since its node says nothing of its machines: %w", vm.VM(), root.name, provisioner.ErrUnavailable)
	}
	if len(matches) == 0 {
		return "", unseen(inv, root)
	}
	var all []string
	for _, r := range matches {
		var t knownTemplate
		err := p.askNode(ctx, inv, r.Node, func(ctx context.Context) (err error) {
			t, err = p.readTemplate(ctx, inv, r.VM())
			return err
		})
		if err != nil {
			p.mu.Lock()
			t = p.templates[r.VM().ID]
			p.mu.Unlock()
		}
		if t.cfg == nil {
			return "", err
		}
		all = append(all, ingredients(t))
	}
	slices.Sort(all)
	if spec.Network == "internet" {
		all = append(all, "bridge="+p.Bridge)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "full=%t storage=%s\n%s", root.full, root.storage, strings.Join(all, "\n")))
	return hex.EncodeToString(sum[:8]), nil
}

// nameless returns a machine of which no name was told since we began, and none is
// now: nothing is broadcast of its node, or not any more since it is down. It may
// be any template. What has no name yet is but new where others have theirs.
func (p *Provisioner) nameless(inv *inventory) (vm pve.Resource, found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range inv.vms {
		switch {
		case r.Name != "":
			p.named[int(r.VMID)] = true
		case r.Type == "qemu" && !p.named[int(r.VMID)] && (inv.mute(r.Node) || !inv.online(r.Node)):
			vm, found = r, true
		}
	}
	return vm, found
}

// ingredients are what clones of a template are made of.
func ingredients(t knownTemplate) string {
	cfg := maps.Clone(map[string]string(t.cfg))
	maps.DeleteFunc(cfg, func(option, _ string) bool { return slices.Contains(aside, option) })
	lines := []string{fmt.Sprint(t.vm.ID)}
	for _, option := range slices.Sorted(maps.Keys(cfg)) {
		lines = append(lines, option+"="+cfg[option])
	}
	return strings.Join(lines, "\n")
}
