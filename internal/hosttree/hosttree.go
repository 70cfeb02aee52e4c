// Package hosttree reads and writes files of this host on behalf of an agent:
// below the directories that the user has allowed, and nowhere else. What
// leaves is a tar stream, and what comes is one that a guest has made, which is
// not trusted.
//
// All access goes through [os.Root], so that no symbolic link leads out, also
// if one is put there while we work. Directories named .git are neither read
// nor written: what git finds in one can be a command that it runs.
package hosttree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Limits of one transfer.
const (
	MaxFiles = 50_000 // and as many directories
	MaxBytes = 2 << 30
	maxName  = 4095 // bytes of a path in an archive
)

// Errors, wrapped. Their text may be shown to the agent.
var (
	// ErrNotAllowed: the path is not below an allowed directory.
	ErrNotAllowed = errors.New("not in an allowed directory")
	// ErrTooMuch: more than MaxFiles or MaxBytes.
	ErrTooMuch = fmt.Errorf("more than %d files or %d GiB", MaxFiles, MaxBytes>>30)
	// ErrConflict: a directory stands where a file is to be written, or the
	// other way round.
	ErrConflict = errors.New("a file and a directory have the same path")
	// ErrBadArchive: what the guest sent is not an archive.
	ErrBadArchive = errors.New("the sandbox sent no valid archive")
)

// Dirs are the directories that are allowed. The zero value allows none.
type Dirs struct{ paths []string }

// New returns the directories at paths, which must exist and be absolute.
func New(paths []string) (Dirs, error) {
	var d Dirs
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return Dirs{}, fmt.Errorf("directory %q: the path must be absolute", path)
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return Dirs{}, fmt.Errorf("directory %q: %w", path, cause(err))
		}
		if info, err := os.Stat(real); err != nil || !info.IsDir() {
			return Dirs{}, fmt.Errorf("directory %q: it is none", path)
		}
		d.paths = append(d.paths, real)
	}
	return d, nil
}

// Paths returns the directories, with symbolic links resolved.
func (d Dirs) Paths() []string { return d.paths }

// place is a path below an allowed directory. The last part need not exist.
type place struct {
	root *os.Root
	name string // below root; "." is root itself
}

func (p place) close() { _ = p.root.Close() }

// open finds the allowed directory that path lies in. Symbolic links on the
// way are resolved here only to find it; whether they lead out is os.Root's to
// say, at each access.
func (d Dirs) open(path string) (place, error) {
	if !filepath.IsAbs(path) {
		return place{}, fmt.Errorf("%w: %q is not absolute", ErrNotAllowed, path)
	}
	real, err := resolve(filepath.Clean(path))
	if err != nil {
		return place{}, err
	}
	for _, dir := range d.paths {
		name, err := filepath.Rel(dir, real)
		if err != nil || !filepath.IsLocal(name) {
			continue
		}
		if inGit(name) {
			return place{}, fmt.Errorf("%w: %q is in a directory of git's", ErrNotAllowed, path)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return place{}, fmt.Errorf("open %s: %w", dir, cause(err))
		}
		return place{root, name}, nil
	}
	return place{}, fmt.Errorf("%w: %q", ErrNotAllowed, path)
}

// resolve follows the symbolic links in that part of path that exists.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%w: %q", ErrConflict, path)
	case !errors.Is(err, fs.ErrNotExist) || path == "/":
		return real, cause(err)
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%w: %q is a symbolic link to nothing", ErrNotAllowed, path)
	}
	dir, err := resolve(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// inGit says whether a part of the path is named .git, in any case, since some
// file systems make no difference.
func inGit(name string) bool {
	for part := range strings.SplitSeq(filepath.ToSlash(name), "/") {
		if strings.EqualFold(part, ".git") {
			return true
		}
	}
	return false
}

// cause strips the operation from an error of the file system.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Stats say what was transferred.
type Stats struct {
	Files   int
	Bytes   int64
	Skipped int // what is neither file nor directory, links that lead out, directories named .git
}

// count adds a file.
func (s *Stats) count(bytes int64) error {
	s.Files++
	s.Bytes += bytes
	if s.Files > MaxFiles || s.Bytes > MaxBytes {
		return ErrTooMuch
	}
	return nil
}
