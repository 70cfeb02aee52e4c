package sessions

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Profile is a named recipe for sandboxes. The tags are the keys of its YAML, and
// the comments what docs/configuration.md says of them. Root is in the syntax of the
// backend; User is whom commands run as that don't say.
type Profile struct {
	// must be that of the file. By default the file's.
	Name string `yaml:"name"`
	// one line, shown to agents
	Description string `yaml:"description"`
	// who makes the machine: `local` or `proxmox`
	Backend string `yaml:"backend"`
	// what it is made from; empty is the host's `/usr /bin /sbin /lib*`, read-only. Else the absolute path of a
	// directory or a tar
	Root string `yaml:"root"`
	// CPUs
	Cores int `yaml:"cores"`
	// memory in MiB
	MemoryMB int `yaml:"memory_mb"`
	// what it may write, in MiB
	DiskMB int `yaml:"disk_mb"`
	// the most that a request may ask for. By default 4 x `cores`.
	MaxCores int `yaml:"max_cores"`
	// the most that a request may ask for. By default 4 x `memory_mb`.
	MaxMemoryMB int `yaml:"max_memory_mb"`
	// the most that a request may ask for. By default 4 x `disk_mb`.
	MaxDiskMB int `yaml:"max_disk_mb"`
	// processes and threads
	MaxProcs int `yaml:"max_procs"`
	// `none`; of `proxmox` also `internet`, a card on the bridge with an address from DHCP
	Network string `yaml:"network"`
	// lifetime when the request names none
	TTL time.Duration `yaml:"ttl"`
	// the shortest that a request may ask for
	MinTTL time.Duration `yaml:"min_ttl"`
	// lifetime from creation that no extension passes
	MaxTTL time.Duration `yaml:"max_ttl"`
	// a sandbox that nobody has used for that long is destroyed, though its end has not come; at least `1s`, at most
	// `max_ttl`, `0s` is never. See docs/configuration.md#idle-sandboxes
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// the user that cloud-init makes and SSH logs in as
	User string `yaml:"user"`
	// what a command line is given to as last argument
	Shell []string `yaml:"shell"`
	// what is kept ready
	Pool Pool `yaml:"pool"`

	// Problem is why it can't be used: what is wrong with its file, and where.
	// Then it has but a name besides.
	Problem string `yaml:"-"`
}

// BuiltinProfiles are what there is without configuration: one profile, of the
// local backend.
func BuiltinProfiles() []Profile {
	p := Profile{
		Name:        "default",
		Description: "Linux with the tools installed on the server, no network; work in /workspace",
		Backend:     "local",
	}
	return []Profile{p.WithDefaults()}
}

// WithDefaults returns the profile with every zero field filled in. A request
// may ask for up to four times the resources unless the profile says otherwise.
func (p Profile) WithDefaults() Profile {
	p.Backend = cmp.Or(p.Backend, "local")
	p.Cores = cmp.Or(p.Cores, 2)
	p.MemoryMB = cmp.Or(p.MemoryMB, 2048)
	p.DiskMB = cmp.Or(p.DiskMB, 4096)
	p.MaxCores = cmp.Or(p.MaxCores, 4*p.Cores)
	p.MaxMemoryMB = cmp.Or(p.MaxMemoryMB, 4*p.MemoryMB)
	p.MaxDiskMB = cmp.Or(p.MaxDiskMB, 4*p.DiskMB)
	p.MaxProcs = cmp.Or(p.MaxProcs, 512)
	p.Network = cmp.Or(p.Network, networks[0])
	p.MaxTTL = cmp.Or(p.MaxTTL, 24*time.Hour)
	p.TTL = cmp.Or(p.TTL, min(time.Hour, p.MaxTTL))
	p.MinTTL = cmp.Or(p.MinTTL, min(time.Minute, p.TTL))
	p.User = cmp.Or(p.User, "root")
	p.Pool.MaxAge = cmp.Or(p.Pool.MaxAge, time.Hour)
	p.Pool.Burst = cmp.Or(p.Pool.Burst, 1)
	if len(p.Shell) == 0 {
		p.Shell = []string{"bash", "-lc"}
	}
	return p
}

// Validate returns what is wrong with a profile whose defaults are filled in:
// the key, its value, and what is allowed.
func (p Profile) Validate() error {
	if !validName.MatchString(p.Name) {
		return fmt.Errorf("name is %q, allowed: %s", p.Name, nameRule)
	}
	if strings.ContainsAny(p.Description, "\r\n") {
		return fmt.Errorf("description is %q, allowed: one line", p.Description)
	}
	for _, r := range []struct {
		key               string
		value, least, max int
	}{
		{"cores", p.Cores, 1, p.MaxCores},
		{"memory_mb", p.MemoryMB, minMemoryMB, p.MaxMemoryMB},
		{"disk_mb", p.DiskMB, minDiskMB, p.MaxDiskMB},
		{"max_cores", p.MaxCores, 1, 1 << 10},
		{"max_memory_mb", p.MaxMemoryMB, minMemoryMB, 1 << 24},
		{"max_disk_mb", p.MaxDiskMB, minDiskMB, 1 << 28},
		{"max_procs", p.MaxProcs, 16, 1 << 20},
	} {
		if r.value < r.least || r.value > r.max {
			return fmt.Errorf("%s is %d, allowed: %d to %d", r.key, r.value, r.least, r.max)
		}
	}
	if !slices.Contains(networks, p.Network) {
		return fmt.Errorf("network is %q, allowed: %s", p.Network, strings.Join(networks, ", "))
	}
	for _, r := range []struct {
		key               string
		value, least, max time.Duration
	}{
		{"max_ttl", p.MaxTTL, time.Second, 365 * 24 * time.Hour},
		{"ttl", p.TTL, time.Second, p.MaxTTL},
		{"min_ttl", p.MinTTL, time.Second, p.TTL},
	} {
		if r.value < r.least || r.value > r.max {
			return fmt.Errorf("%s is %v, allowed: %v to %v", r.key, r.value, r.least, r.max)
		}
	}
	if t := p.IdleTimeout; t != 0 && (t < time.Second || t > p.MaxTTL) {
		return fmt.Errorf("idle_timeout is %v, allowed: 0s, which is never, or %v to %v", t, time.Second, p.MaxTTL)
	}
	if slices.Contains(p.Shell, "") {
		return fmt.Errorf("shell is %q, allowed: a program and its arguments, none empty", p.Shell)
	}
	return p.Pool.validate()
}

const (
	minMemoryMB = 64
	minDiskMB   = 16
	nameRule    = "1 to 40 characters a-z, 0-9 and -"
)

var (
	validName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	// networks are the network modes, each wider than the one before.
	networks = []string{"none", "allowlist", "internet"}
)
