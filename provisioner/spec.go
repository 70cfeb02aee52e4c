package provisioner

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// ValidID reports whether id may be that of a sandbox, after which backends
// name directories, control groups and hosts.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// Check returns ErrInvalid with the field at fault if the spec is none for a
// backend of that instance which has these networks and gives a machine no
// less memory.
func (s Spec) Check(instance string, leastMemoryMB int, networks ...string) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrInvalid)...)
	}
	switch {
	case !ValidID(s.Papers.Sandbox):
		return invalid("sandbox id %q: it must match %s", s.Papers.Sandbox, idPattern)
	case s.Papers.Instance != instance:
		return invalid("papers are of instance %q, this is %q", s.Papers.Instance, instance)
	case s.Network != "" && !slices.Contains(networks, s.Network):
		return invalid("network %q: this backend has %s", s.Network, strings.Join(networks, " and "))
	case s.MemoryMB != 0 && s.MemoryMB < leastMemoryMB:
		return invalid("memory %d MB: the least is %d MB", s.MemoryMB, leastMemoryMB)
	}
	for field, n := range map[string]int{"cores": s.Cores, "disk": s.DiskMB, "processes": s.MaxProcs} {
		if n < 0 {
			return invalid("%s %d: it can't be negative", field, n)
		}
	}
	return nil
}
