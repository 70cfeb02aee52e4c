package names

import (
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, tt := range map[string]struct {
		form      Form
		good, bad []string
	}{
		"node":    {Node, []string{"pve", "PVE-1", "9", long[:63]}, []string{"", "a/b", "..", "pve.lan", "-a", "a-", "pve 1", "pve\n", "ä", long}},
		"storage": {Storage, []string{"local", "local-lvm", "a.b_c9"}, []string{"", "a", "9a", "a/b", "..", "a.", "local:iso", "a\n", "a%2fb"}},
		"bridge":  {Bridge, []string{"vmbr0", "br-lan", "bond0.10", "_x", "1st", long[:15]}, []string{"", "..", ".a", "-a", "a/b", "vmbr0,tag=3", long[:16]}},
		"network": {Network, []string{"vmbr0", "zone1/vnet1", "localnetwork/vmbr0"}, []string{"", "a/b/c", "../vmbr0", "zone1/..", "toolongzone/vnet", "zone1/toolongvnet", "z/v"}},
		"pool": {Pool, []string{"agentlab", "a/b/c", "a.b", ".a", "...", "..a", "_/-"},
			[]string{"", "a/../b", "..", ".", "a/.", "a/b/c/d", "a//b", "/a", "a/", "a b", "a%2fb", "a?b", "a\n"}},
		"template": {Template, []string{"9000", "debian-12", "ubuntu-24.04"}, []string{"", "a..b", "..", "a/b", "a_b", "debian,full=1", "-a", "a.", long}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range tt.good {
				if !tt.form.Match(s) {
					t.Errorf("%q is refused", s)
				}
			}
			for _, s := range tt.bad {
				if tt.form.Match(s) {
					t.Errorf("%q is allowed", s)
				}
			}
		})
	}
}
