package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// profileFile is a file in the directory of profiles: its name and content as they
// were read at one time.
type profileFile struct {
	path string
	data []byte
	err  error // of reading it
}

// readFiles reads the *.yaml files of dir, which need not be there.
func readFiles(dir string) (files []profileFile, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), profileExt) {
			continue
		}
		f := profileFile{path: filepath.Join(dir, e.Name())}
		f.data, _, f.err = readFile(f.path)
		if errors.Is(f.err, fs.ErrNotExist) && !isLink(e) { // removed since it was listed
			continue
		}
		files = append(files, f)
	}
	return files, nil
}

// isLink: one that leads nowhere is a mistake, and not a file that is gone.
func isLink(e fs.DirEntry) bool { return e.Type()&fs.ModeSymlink != 0 }

// same says that nothing has changed between two looks at one directory.
func same(a, b []profileFile) bool {
	return slices.EqualFunc(a, b, func(a, b profileFile) bool {
		return a.path == b.path && bytes.Equal(a.data, b.data) && errorText(a.err) == errorText(b.err)
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// profileExt ends the names of files with profiles.
const profileExt = ".yaml"

// draft is what the file of a profile says, before anything else is filled in.
type draft struct {
	Profile
	file string
	data []byte
	err  error // what is wrong with the file itself; the rest is then not looked at
}

// profilesOf returns the profiles that the files say, and the built-in ones that
// none of them replaces. One that is wrong has nothing but a name and a Problem,
// and so has one that stands on it.
func profilesOf(files []profileFile) (profiles []Profile) {
	var set profileSet
	for _, f := range files {
		set.drafts = append(set.drafts, newDraft(f))
	}
	base, broken := set.defaultProfile()
	set.presets, set.broken = presets(base), broken
	for _, d := range set.drafts {
		p, err := set.finish(d)
		if err != nil {
			p = brokenProfile(d.base(), err)
		}
		profiles = append(profiles, p)
	}
	for _, p := range append([]Profile{builtinDefault()}, set.presets...) {
		switch {
		case hasProfile(profiles, p.Name):
		case broken != nil:
			profiles = append(profiles, brokenProfile(p.Name, broken))
		default:
			p.Profile = p.WithDefaults()
			profiles = append(profiles, p)
		}
	}
	return profiles
}

func brokenProfile(name string, err error) Profile {
	return Profile{Profile: sessions.Profile{Name: name, Problem: err.Error()}}
}

func newDraft(f profileFile) draft {
	d := draft{file: f.path, data: f.data, err: f.err}
	d.Name = d.base()
	switch {
	case d.err != nil:
	case len(bytes.TrimSpace(d.data)) == 0: // as what is about to be written is at first
		d.err = fmt.Errorf("%s: it is empty; write at least a comment if all defaults are meant", d.file)
	default:
		d.err = decode(d.file, d.data, &d.Profile)
	}
	return d
}

// profileSet is what a profile can extend.
type profileSet struct {
	drafts  []draft
	presets []Profile
	broken  error // why the presets can't be used: what they are variants of is wrong
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
func (d draft) base() string { return strings.TrimSuffix(filepath.Base(d.file), profileExt) }

// defaultProfile is the one of that name as its file says, or the built-in one,
// and what is wrong with it.
func (s profileSet) defaultProfile() (Profile, error) {
	d, ok := s.draft(builtinDefault().Name)
	if !ok {
		return builtinDefault(), nil
	}
	if _, err := s.finish(d); err != nil {
		return builtinDefault(), err
	}
	return s.extended(d)
}

// finish returns the profile with its defaults filled in.
func (s profileSet) finish(d draft) (Profile, error) {
	if d.err != nil {
		return d.Profile, d.err
	}
	p, err := s.extended(d)
	if err != nil {
		return p, err
	}
	var ps problems
	p.checkKeys(&ps)
	p.Profile = p.WithDefaults()
	ps.check(p.Name == d.base(), "name: got %q, want that of the file, %q, or no such line", p.Name, d.base())
	p.check(&ps)
	if err := p.Validate(); err != nil {
		ps = append(ps, err)
	}
	return p, within(d.file, d.data, errors.Join(ps...))
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
		return d.Profile, within(d.file, d.data, err)
	}
	if base, ok := s.draft(d.Extends); ok && base.err != nil {
		return d.Profile, base.err // which says where
	}
	if s.broken != nil && slices.ContainsFunc(s.presets, func(q Profile) bool { return q.Name == p.Name }) {
		return d.Profile, s.broken
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
