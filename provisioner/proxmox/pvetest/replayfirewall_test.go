package pvetest

import (
	"slices"
	"strings"
)

func transcript71() *transcript {
	return &transcript{prepare: func(r *replay, c *Cluster) {
		minis(c)
		agentUser(r, c)
		pool(c)
		minimal(c)
		linked(c, 190, "fw-190")
		delete(c.VMs[190].Config, "tags")
		c.Pools["mcp"].VMs[190] = true
	}, before: map[string]func(*replay){
		"a new VM 4711 inherits the stale .fw": func(r *replay) {
			r.srv.Edit(func(c *Cluster) { c.AddVM("pve", 4711, "new") })
		},
	}, omit: map[string]string{
		"interfaces of the VM with firewall=1 (no fwbr devices here: without the pve-firewall daemon PVE::Firewall::Helpers assumes nftables)": noHost,
		"interfaces after": noHost,
		"files":            "the command was cmp of two files, which the calls before it show",
	}}
}

const noHost = "the command was ip: there is no host around the simulated VMs"

// firewallFiles does what the recordings did in /etc/pve/firewall.
func firewallFiles(c *Cluster, argv []string) (string, bool) {
	const dir = "/etc/pve/firewall"
	var names []string
	for name := range c.Firewall {
		names = append(names, name+".fw")
	}
	slices.Sort(names)
	switch cmd := strings.Join(argv, " "); {
	case cmd == "ls "+dir:
		if len(names) == 0 {
			return "", true
		}
		return strings.Join(names, "\n") + "\n", true
	case strings.HasPrefix(cmd, "cat "+dir+"/"):
		return c.Firewall[strings.TrimSuffix(strings.TrimPrefix(cmd, "cat "+dir+"/"), ".fw")], true
	case strings.HasPrefix(cmd, "sh -c cd "+dir+" && for f in"):
		var out strings.Builder
		for _, name := range names {
			out.WriteString("== " + name + "\n" + c.Firewall[strings.TrimSuffix(name, ".fw")])
		}
		return out.String(), true
	}
	return "", false
}

// filesDiff compares line by line, but options in any order: theirs is Perl's.
func filesDiff(want, got string) string {
	sorted := func(text string) string {
		sections := strings.Split(text, "\n\n")
		for i, s := range sections {
			if i > 0 && strings.HasSuffix(sections[i-1], "[OPTIONS]") {
				lines := strings.Split(s, "\n")
				slices.Sort(lines)
				sections[i] = strings.Join(lines, "\n")
			}
		}
		return strings.Join(sections, "\n\n")
	}
	if sorted(want) != sorted(got) {
		return "-" + want + "\n+" + got
	}
	return ""
}

// digestDiff compares the digests of the firewall, which are the same for the
// same content.
func digestDiff(path string, want, got any) []string {
	a, b := digests(want), digests(got)
	if !strings.Contains(path, "/firewall/") || slices.Equal(a, b) {
		return nil
	}
	return []string{"digests " + strings.Join(b, " ") + ", want " + strings.Join(a, " ")}
}

func digests(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		if d, ok := v["digest"].(string); ok {
			out = append(out, d)
		}
		for _, e := range v {
			out = append(out, digests(e)...)
		}
	case []any:
		for _, e := range v {
			out = append(out, digests(e)...)
		}
	}
	slices.Sort(out)
	return out
}
