package config

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// builtinDefault is the one profile that is made of nothing else, before its
// defaults are filled in.
func builtinDefault() Profile {
	full := sessions.BuiltinProfiles()[0]
	return Profile{Profile: sessions.Profile{Name: full.Name, Description: full.Description}}
}

// builtinProfiles are what there is without configuration.
func builtinProfiles() []Profile {
	profiles := append([]Profile{builtinDefault()}, presets(builtinDefault())...)
	for i, p := range profiles {
		profiles[i].Profile = p.WithDefaults()
	}
	slices.SortFunc(profiles[1:], byName)
	return profiles
}

// presets are the built-in variants of the default profile: on the same
// backend, and none allows more than that one does.
func presets(def Profile) (all []Profile) {
	full := def.WithDefaults()
	for _, v := range []struct {
		name, description string
		ttl, idle         time.Duration
		program           string // that must be there; empty is none
	}{
		{"yolo-ephemeral", "Like default, for one short task: it ends soon, and sooner when unused", 15 * time.Minute, 5 * time.Minute, ""},
		{"interactive-dev", "Like default, to come back to in the course of a day", 8 * time.Hour, 2 * time.Hour, ""},
		{"agent-python", "Like default, for Python: python3 is there", time.Hour, 30 * time.Minute, "python3"},
		{"agent-node", "Like default, for Node.js: node is there", time.Hour, 30 * time.Minute, "node"},
	} {
		if v.program != "" && !surelyHas(full, v.program) {
			continue
		}
		p := def
		p.Name, p.Description, p.Extends, p.Pool = v.name, v.description, "", sessions.Pool{}
		p.TTL = min(v.ttl, full.MaxTTL)
		p.MinTTL = min(full.MinTTL, p.TTL)
		p.IdleTimeout = min(v.idle, p.TTL)
		if full.IdleTimeout != 0 {
			p.IdleTimeout = min(p.IdleTimeout, full.IdleTimeout)
		}
		all = append(all, p)
	}
	return all
}

// surelyHas says that machines of the profile have a program: those that are made
// of this host's own directories. What is in a template is not known.
func surelyHas(p sessions.Profile, program string) bool {
	if p.Backend != "local" || p.Root != "" {
		return false
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}
