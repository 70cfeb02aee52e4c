package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// loadProfiles reads the *.yaml files of dir, which need not be there, and
// adds the built-in profiles that none of them replaces.
func loadProfiles(dir string) ([]sessions.Profile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	var profiles []sessions.Profile
	var errs []error
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		p, err := loadProfile(filepath.Join(dir, e.Name()))
		profiles, errs = append(profiles, p), append(errs, err)
	}
	for _, p := range sessions.BuiltinProfiles() {
		if !hasProfile(profiles, p.Name) {
			profiles = append(profiles, p)
		}
	}
	return profiles, errors.Join(errs...)
}

// loadProfile reads one profile. Its name is that of its file: two places for
// one name would differ some day.
func loadProfile(file string) (sessions.Profile, error) {
	name := strings.TrimSuffix(filepath.Base(file), ".yaml")
	p := sessions.Profile{Name: name}
	data, err := readFile(file)
	if err != nil {
		return p, err
	}
	if err := decode(file, data, &p); err != nil {
		return p, err
	}
	p = p.WithDefaults()
	var ps problems
	ps.check(p.Name == name, "name: got %q, want that of the file, %q, or no such line", p.Name, name)
	ps.check(p.Backend == "local", "backend: got %q, want local", p.Backend)
	if err := p.Validate(); err != nil {
		ps = append(ps, err)
	}
	return p, within(file, errors.Join(ps...))
}

// order puts the default profile first and the others by name.
func order(profiles []sessions.Profile, first string) ([]sessions.Profile, error) {
	if !hasProfile(profiles, first) {
		return nil, fmt.Errorf("default_profile: there is no profile %q", first)
	}
	slices.SortFunc(profiles, func(a, b sessions.Profile) int {
		switch {
		case a.Name == first:
			return -1
		case b.Name == first:
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return profiles, nil
}

func hasProfile(profiles []sessions.Profile, name string) bool {
	return slices.ContainsFunc(profiles, func(p sessions.Profile) bool { return p.Name == name })
}
