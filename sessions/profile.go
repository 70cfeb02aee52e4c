package sessions

import "time"

// Profile is a named recipe for sandboxes. The tags are the keys of its YAML.
type Profile struct {
	Name        string        `yaml:"name"`
	Description string        `yaml:"description"` // one line, shown to agents
	Backend     string        `yaml:"backend"`     // "local"
	Root        string        `yaml:"root"`        // what its machines are made from, in the backend's syntax; empty is its default
	Cores       int           `yaml:"cores"`
	MemoryMB    int           `yaml:"memory_mb"`
	DiskMB      int           `yaml:"disk_mb"`
	MaxProcs    int           `yaml:"max_procs"` // processes and threads in the guest
	Network     string        `yaml:"network"`   // "none"
	TTL         time.Duration `yaml:"ttl"`       // lifetime when the request names none
	MaxTTL      time.Duration `yaml:"max_ttl"`   // from creation; extensions never pass it
	Shell       []string      `yaml:"shell"`     // what a command line is given to as last argument
}
