package proxmox

import (
	"context"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// warnOfStrangers tells of the machines in our pool that bear the mark of
// another installation, when there are others than the last time. They may well
// be of this one, made with a key that was lost since: nothing else says where
// they are.
func (p *Provisioner) warnOfStrangers(ctx context.Context, inv *inventory) {
	brand := p.brand()
	var ids []int
	for _, r := range inv.vms {
		another := slices.ContainsFunc(pve.SplitTags(string(r.Tags)), func(t string) bool {
			return markForm.MatchString(t) && !strings.HasPrefix(t, brand)
		})
		if another && string(r.Pool) == p.Pool {
			ids = append(ids, int(r.VMID))
		}
	}
	slices.Sort(ids)
	p.mu.Lock()
	told := slices.Equal(ids, p.strangers)
	p.strangers = ids
	p.mu.Unlock()
	if !told && len(ids) > 0 {
		p.log.WarnContext(ctx, "left alone: machines that another installation has made, or this one with another key, which only a backup brings back",
			"pool", p.Pool, "vmids", ids)
	}
}
