package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/durable"
)

// A database is replaced in steps of which each leaves one that is whole. What
// takes its place is made beside it, as its draft. Then it is given a second
// name, and the draft is renamed to the first. Whoever is killed in between
// leaves the old one or the new one, never none and never a half; Tidy removes
// the rest.
//
// A database that nobody has open has no write-ahead log any more, unless
// something is wrong with it. SQLite would play a log into whatever has the name
// of its file, so such a database is taken away before, and nothing is at its
// place for a moment: a start makes a new one then, as it does of a damaged one.

// suffixes of the files of a database, the file itself last: it is not to be
// seen without its log, which would be to lose its latest changes.
var suffixes = []string{"-wal", "-shm", ""}

// Step does one step of several, so that a test can have a crash before or
// after it.
type Step func(name string, do func() error) error

// Draft returns where that which is to replace the database at path is made.
func Draft(path string) string { return path + ".draft" }

// Replace puts the draft in the place of the database at path, which it keeps
// aside; aside is where, empty if there was none. Nobody may have either open.
// If it fails all is as it was.
func Replace(ctx context.Context, path string, step Step) (aside string, err error) {
	draft := Draft(path)
	if err := verify(ctx, draft); err != nil {
		return "", err
	}
	if there(draft + suffixes[0]) {
		return "", fmt.Errorf("%s is not closed", draft)
	}
	if there(path) {
		err = step("store keep aside", func() (err error) {
			aside, err = keepAside(path, "replaced", time.Now())
			return err
		})
		if err != nil {
			return "", fmt.Errorf("keep %s aside: %w", path, err)
		}
	}
	if there(path + suffixes[0]) {
		err = step("store take away", func() error { return remove(path) })
	}
	if err == nil {
		err = step("store put in place", func() error { return errors.Join(os.Rename(draft, path), durable.SyncDir(filepath.Dir(path))) })
	}
	if err != nil && aside != "" {
		err = errors.Join(err, putBack(aside, path))
	}
	return aside, err
}

// putBack undoes what Replace has done to the database that it has kept aside.
func putBack(aside, path string) error {
	if !there(path) {
		if err := link(aside, path); err != nil {
			return err
		}
	}
	return remove(aside)
}

// Tidy removes what is left of a Replace of the database at path, or of the
// making of its draft, that did not come to its end, and returns what that was.
// The database is not touched. Nobody may have either open.
func Tidy(path string) (left []string, err error) {
	if draft := Draft(path); there(draft) {
		left = append(left, draft)
	}
	names, err := secondNames(path)
	if err != nil {
		return nil, err
	}
	left = append(left, names...)
	for _, name := range left {
		err = errors.Join(err, remove(name))
	}
	return left, err
}

// secondNames returns those of the database at path itself, kept aside by
// somebody who did not come to take away the first.
func secondNames(path string) (names []string, err error) {
	own, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), name+".") && os.SameFile(own, info) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// moveAside puts a database away; why is a part of the name that it gets.
func moveAside(path, why string, now time.Time) (aside string, err error) {
	if aside, err = keepAside(path, why, now); err != nil {
		return "", err
	}
	return aside, remove(path)
}

// keepAside gives a database, whatever its condition, a second name.
func keepAside(path, why string, now time.Time) (aside string, err error) {
	aside = path + "." + why + "-" + now.UTC().Format("20060102T150405.000000000Z")
	return aside, link(path, aside)
}

// link gives the files of a database second names, all of them or none.
func link(path, to string) error {
	for i, suffix := range suffixes {
		err := os.Link(path+suffix, to+suffix)
		if err == nil || suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, made := range suffixes[:i] {
			err = errors.Join(err, gone(os.Remove(to+made)))
		}
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// remove removes the files of a database, the file itself first: SQLite takes
// no notice of a log without it.
func remove(path string) error {
	for _, suffix := range slices.Backward(suffixes) {
		if err := gone(os.Remove(path + suffix)); err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

// gone returns nil if nothing was there to be removed.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// there says that there may be a file.
func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
