package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// draft is what the file of a profile says, before anything else is filled in.
type draft struct {
	Profile
	file string
	data []byte
	err  error // what is wrong with the file itself; the rest is then not looked at
}

// loadProfiles reads the *.yaml files of dir, which need not be there, and
// adds the built-in profiles that none of them replaces.
func loadProfiles(dir string) ([]Profile, error) {
	drafts, err := readDrafts(dir)
	if err != nil {
		return nil, err
	}
	set := profileSet{drafts: drafts}
	set.presets = presets(set.defaultProfile())
	var profiles []Profile
	var errs []error
	for _, d := range drafts {
		p, err := set.finish(d)
		profiles, errs = append(profiles, p), append(errs, err)
	}
	for _, p := range append([]Profile{builtinDefault()}, set.presets...) {
		if !hasProfile(profiles, p.Name) {
			p.Profile = p.WithDefaults()
			profiles = append(profiles, p)
		}
	}
	return profiles, errors.Join(errs...)
}

// readDrafts reads all files.
func readDrafts(dir string) (drafts []draft, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok {
			continue
		}
		d := draft{Profile: Profile{Profile: sessions.Profile{Name: name}}, file: filepath.Join(dir, e.Name())}
		if d.data, _, d.err = readFile(d.file); d.err == nil {
			d.err = decode(d.file, d.data, &d.Profile)
		}
		drafts = append(drafts, d)
	}
	return drafts, nil
}

// profileSet is what a profile can extend.
type profileSet struct {
	drafts  []draft
	presets []Profile
}

func (s profileSet) draft(name string) (draft, bool) {
	i := slices.IndexFunc(s.drafts, func(d draft) bool { return d.base() == name })
	if i < 0 {
		return draft{}, false
	}
	return s.drafts[i], true
}

// base is the name of the profile by its file: two places for one name would
// differ some day.
func (d draft) base() string { return strings.TrimSuffix(filepath.Base(d.file), ".yaml") }

// defaultProfile is the one of that name as its file says, or the built-in one.
// What is wrong with it is found when it is finished.
func (s profileSet) defaultProfile() Profile {
	d, ok := s.draft(builtinDefault().Name)
	if !ok {
		return builtinDefault()
	}
	p, _ := s.extended(d)
	return p
}

// finish returns the profile with its defaults filled in.
func (s profileSet) finish(d draft) (Profile, error) {
	if d.err != nil {
		return d.Profile, d.err
	}
	p, err := s.extended(d)
	if err != nil {
		return p, within(d.file, err)
	}
	var ps problems
	p.checkKeys(&ps)
	p.Profile = p.WithDefaults()
	ps.check(p.Name == d.base(), "name: got %q, want that of the file, %q, or no such line", p.Name, d.base())
	p.check(&ps)
	if err := p.Validate(); err != nil {
		ps = append(ps, err)
	}
	return p, within(d.file, errors.Join(ps...))
}

// extended returns the draft on top of the profile that it extends, if it does:
// of that it has all but the name and the pool, which would cost the memory of
// another one.
func (s profileSet) extended(d draft) (Profile, error) {
	if d.Extends == "" {
		return d.Profile, nil
	}
	p, err := s.find(d)
	if err != nil {
		return d.Profile, err
	}
	p.Name, p.Pool, p.Shell = d.base(), sessions.Pool{}, slices.Clone(p.Shell)
	return p, decode(d.file, d.data, &p) // which has succeeded before
}

// find returns what d extends. That extends nothing itself: to know a profile,
// two files are read and no more.
func (s profileSet) find(d draft) (Profile, error) {
	if base, ok := s.draft(d.Extends); ok {
		if base.Extends != "" {
			return Profile{}, fmt.Errorf("extends: got %q, which extends %q itself; want a profile that extends none", d.Extends, base.Extends)
		}
		return base.Profile, nil
	}
	builtin := []Profile{builtinDefault()}
	if d.base() != builtin[0].Name { // of which the presets are made
		builtin = append(builtin, s.presets...)
	}
	var known []string
	for _, p := range builtin {
		if p.Name == d.Extends {
			return p, nil
		}
		known = append(known, p.Name)
	}
	for _, other := range s.drafts {
		if other.Extends == "" && other.base() != d.base() {
			known = append(known, other.base())
		}
	}
	slices.Sort(known)
	return Profile{}, fmt.Errorf("extends: got %q, want one of: %s", d.Extends, strings.Join(slices.Compact(known), ", "))
}
