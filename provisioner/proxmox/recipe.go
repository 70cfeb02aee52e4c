package proxmox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
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
