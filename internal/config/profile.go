package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// builtinProfile is there without any file. A profile file starts from it, so
// that it needs to name only what differs.
func builtinProfile() sessions.Profile {
	return sessions.Profile{
		Name:        "default",
		Description: "Linux with the programs of the host, no network",
		Backend:     "local",
		Cores:       2,
		MemoryMB:    2048,
		DiskMB:      4096,
		MaxProcs:    512,
		Network:     "none",
		TTL:         time.Hour,
		MaxTTL:      24 * time.Hour,
		Shell:       []string{"/bin/bash", "-lc"},
	}
}

// loadProfiles reads the *.yaml files of dir, which need not be there. The
// name of a profile is that of its file.
func loadProfiles(dir string) ([]sessions.Profile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	profiles := []sessions.Profile{builtinProfile()}
	var errs []error
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		p, err := loadProfile(filepath.Join(dir, e.Name()))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.Name == profiles[0].Name {
			profiles[0] = p
			continue
		}
		profiles = append(profiles, p)
	}
	return profiles, errors.Join(errs...)
}

func loadProfile(file string) (sessions.Profile, error) {
	p := builtinProfile()
	p.Name = strings.TrimSuffix(filepath.Base(file), ".yaml")
	if p.Name != builtinProfile().Name {
		p.Description = ""
	}
	name := p.Name
	data, err := readFile(file)
	if err != nil {
		return p, err
	}
	if err := decode(file, data, &p); err != nil {
		return p, err
	}
	if p.Name != name {
		return p, fmt.Errorf("%s: name: got %q, want that of the file, %q, or no such line", file, p.Name, name)
	}
	return p, within(file, validateProfile(p))
}

// A profile's name goes into file names, labels and the tags of machines.
var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Limits of what a profile may give one sandbox. They catch a slip of the
// unit, bytes for MiB; what the host can bear is for its owner to know.
const (
	maxCores    = 1024
	maxMB       = 16 << 20 // MiB: 16 TiB
	maxMaxProcs = 1 << 22  // as Linux's own pid_max
)

func validateProfile(p sessions.Profile) error {
	var ps problems
	between := func(key string, n, low, high int) {
		ps.check(low <= n && n <= high, "%s: got %d, want %d to %d", key, n, low, high)
	}
	ps.check(profileName.MatchString(p.Name), "name %q: want at most 32 of a-z, 0-9 and -, the first no -", p.Name)
	ps.check(!strings.ContainsAny(p.Description, "\n\r") && len(p.Description) <= 200, "description: want one line of at most 200 bytes")
	ps.check(p.Backend == "local", "backend: got %q, want local", p.Backend)
	between("cores", p.Cores, 1, maxCores)
	between("memory_mb", p.MemoryMB, 32, maxMB)
	between("disk_mb", p.DiskMB, 1, maxMB)
	between("max_procs", p.MaxProcs, 8, maxMaxProcs)
	ps.check(p.Network == "none", "network: got %q, want none", p.Network)
	ps.check(p.TTL >= time.Second, "ttl: got %v, want at least 1s", p.TTL)
	ps.check(p.MaxTTL >= p.TTL, "max_ttl: got %v, want at least ttl, which is %v", p.MaxTTL, p.TTL)
	ps.check(len(p.Shell) > 0 && filepath.IsAbs(p.Shell[0]), "shell: got %q, want an absolute path and its options", p.Shell)
	return errors.Join(ps...)
}

// order puts the default profile first and the others by name.
func order(profiles []sessions.Profile, first string) ([]sessions.Profile, error) {
	slices.SortFunc(profiles, func(a, b sessions.Profile) int { return cmp.Compare(a.Name, b.Name) })
	i := slices.IndexFunc(profiles, func(p sessions.Profile) bool { return p.Name == first })
	if i < 0 {
		return nil, fmt.Errorf("default_profile: there is no profile %q", first)
	}
	p := profiles[i]
	return slices.Insert(slices.Delete(profiles, i, i+1), 0, p), nil
}
