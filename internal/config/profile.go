package config

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/names"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Profile is a recipe for sandboxes, and what only the backend needs to know of
// it. The keys below are those of the backend proxmox.
type Profile struct {
	sessions.Profile `yaml:",inline"`

	// the profile that it stands on
	Extends string `yaml:"extends"`

	// what machines are clones of: a name, which may be that of several templates on several nodes, or a VMID. By
	// default `proxmox_template`.
	Template string `yaml:"template"`
	// `linked`, or `full`, which copies the disk
	Clone string `yaml:"clone"`
	// storage of a full clone. By default the template's.
	Storage string `yaml:"storage"`
	// how the inside is reached: `ssh`, `agent` (the QEMU guest agent, which needs no network) or `auto`, SSH if it
	// can be reached
	Channel string `yaml:"channel"`
}

// backendKeys are the keys that only one backend has.
var backendKeys = map[string]string{
	"root": "local", "max_procs": "local",
	"template": "proxmox", "clone": "proxmox", "storage": "proxmox", "channel": "proxmox", "user": "proxmox",
}

// BackendOf returns the backend that alone has a key of profiles; empty is that all have.
func BackendOf(key string) string { return backendKeys[key] }

// backendNetworks are the network modes of each backend.
var backendNetworks = map[string][]string{"local": {"none"}, "proxmox": {"none", "internet"}}

// userForm is what useradd takes for a name.
var userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// checkKeys adds the keys that are set and that the backend does not have. The
// defaults must not be filled in yet.
func (p *Profile) checkKeys(ps *problems) {
	backend := cmp.Or(p.Backend, "local")
	if backendNetworks[backend] == nil {
		return // check says so
	}
	fields := fieldsOf(p)
	for _, key := range slices.Sorted(maps.Keys(backendKeys)) {
		if of := backendKeys[key]; of != backend {
			ps.check(fields[key].IsZero(), "%s: got %q, but backend %s has no such key; it is one of backend %s", key, fmt.Sprint(fields[key]), backend, of)
		}
	}
}

// check adds what is wrong with what the sessions do not know.
func (p *Profile) check(ps *problems) {
	networks := backendNetworks[p.Backend]
	if networks == nil {
		ps.check(false, "backend: got %q, want %s", p.Backend, strings.Join(slices.Sorted(maps.Keys(backendNetworks)), " or "))
		return
	}
	ps.check(slices.Contains(networks, p.Network), "network: got %q, want one that backend %s has: %s", p.Network, p.Backend, strings.Join(networks, ", "))
	ps.name("template", p.Template, names.Template)
	ps.check(slices.Contains([]string{"", "linked", "full"}, p.Clone), "clone: got %q, want linked or full", p.Clone)
	ps.name("storage", p.Storage, names.Storage)
	ps.check(p.Storage == "" || p.Clone == "full", "storage: got %q, but a linked clone is where its template is; set clone: full", p.Storage)
	ps.check(slices.Contains([]string{"", "ssh", "agent", "auto"}, p.Channel), "channel: got %q, want ssh, agent or auto", p.Channel)
	ps.check(p.Channel != "ssh" || p.Network != "none", "channel: got \"ssh\", but network none has no way for it; set network: internet, or channel: agent")
	ps.check(userForm.MatchString(p.User), "user: got %q, want the name of a Linux user", p.User)
}

// settle fills in what is left to defaults, and writes what machines are made
// of in the syntax of the backend. Empty is the backend's default template.
func (p *Profile) settle(px Proxmox) {
	if p.Backend != "proxmox" {
		return
	}
	p.Clone, p.Channel = cmp.Or(p.Clone, "linked"), cmp.Or(p.Channel, "auto")
	p.Root = p.Template
	if template := cmp.Or(p.Template, px.Template); template != "" && p.Clone == "full" {
		p.Root = template + ",full=1"
		if p.Storage != "" {
			p.Root += ",storage=" + p.Storage
		}
	}
}

// order puts the default profile first and the others by name. A default that is
// none is one that can't be used, so that who asks for it is told.
func order(profiles []Profile, first, file string) []Profile {
	if !hasProfile(profiles, first) {
		profiles = append(profiles, brokenProfile(first, fmt.Errorf("%s: default_profile: there is no profile %q", file, first)))
	}
	slices.SortFunc(profiles, func(a, b Profile) int {
		switch {
		case a.Name == first:
			return -1
		case b.Name == first:
			return 1
		}
		return byName(a, b)
	})
	return profiles
}

func byName(a, b Profile) int { return cmp.Compare(a.Name, b.Name) }

func hasProfile(profiles []Profile, name string) bool {
	return slices.ContainsFunc(profiles, func(p Profile) bool { return p.Name == name })
}
