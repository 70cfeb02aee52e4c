package hosttree

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Save writes what r gives to the file at path: all of it or nothing. Missing
// directories are made. An existing file is replaced only with overwrite, and
// keeps its mode.
//
// Errors: ErrNotAllowed, fs.ErrExist, ErrConflict, ErrTooMuch, ctx.Err, and
// those of r.
func (d Dirs) Save(ctx context.Context, path string, r io.Reader, mode fs.FileMode, overwrite bool) (Stats, error) {
	s, err := d.stage(path, overwrite, false)
	if err != nil {
		return Stats{}, err
	}
	defer s.close()
	if s.old != nil {
		mode = s.old.Mode()
	}
	if err := s.file(ctx, s.temp, r, mode); err != nil {
		return Stats{}, err
	}
	if s.old == nil { // unlike Rename, it replaces nothing that came meanwhile
		return s.stats, cause(s.root.Link(s.temp, s.name))
	}
	return s.stats, cause(s.root.Rename(s.temp, s.name))
}

// Unpack makes the directory at path of a tar: all of it or, unless the disk
// fails at the very end, nothing. With overwrite an existing directory is added
// to, and its files are replaced.
//
// Errors: as Save, and ErrBadArchive.
func (d Dirs) Unpack(ctx context.Context, path string, r io.Reader, overwrite bool) (Stats, error) {
	s, err := d.stage(path, overwrite, true)
	if err != nil {
		return Stats{}, err
	}
	defer s.close()
	if err := s.root.Mkdir(s.temp, 0o755); err != nil {
		return Stats{}, fmt.Errorf("%s: %w", path, cause(err))
	}
	if err := s.extract(ctx, tar.NewReader(r)); err != nil {
		return Stats{}, err
	}
	if s.old == nil {
		return s.stats, cause(s.root.Rename(s.temp, s.name))
	}
	return s.stats, s.merge()
}

// stage is where something is written before it takes its place.
type stage struct {
	place
	temp  string      // beside name
	old   fs.FileInfo // what is at name; nil if nothing
	stats Stats
	dirs  int // made so far
}

func (s *stage) close() {
	_ = s.root.RemoveAll(s.temp) // it is gone if all went well
	s.place.close()
}

func (d Dirs) stage(target string, overwrite, dir bool) (*stage, error) {
	p, err := d.open(target)
	if err != nil {
		return nil, err
	}
	s := &stage{place: p, temp: path.Join(path.Dir(p.name), ".agentlab-"+rand.Text()[:12])}
	err = s.look(overwrite, dir)
	if err == nil {
		err = s.root.MkdirAll(path.Dir(p.name), 0o755)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("%s: %w", target, cause(err))
	}
	return s, nil
}

// look says whether what is at the target may be replaced.
func (s *stage) look(overwrite, dir bool) error {
	info, err := s.root.Lstat(s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir() != dir || !dir && !info.Mode().IsRegular():
		return ErrConflict
	case !overwrite:
		return fs.ErrExist
	}
	s.old = info
	return nil
}

// extract unpacks into the temporary directory. Symbolic links come last, so
// that nothing is written through one, and that each stands where its name says:
// that it stays inside is told by its name.
func (s *stage) extract(ctx context.Context, tr *tar.Reader) error {
	links := map[string]string{}
	for {
		head, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("%w: %w", ErrBadArchive, err))
		}
		name := path.Clean(head.Name)
		if !filepath.IsLocal(name) || inGit(name) || len(name) > maxName {
			s.stats.Skipped++
			continue
		}
		if head.Typeflag == tar.TypeSymlink {
			if !inside(name, head.Linkname) {
				s.stats.Skipped++
				continue
			}
			links[name] = head.Linkname
		}
		if err := s.entry(ctx, head, path.Join(s.temp, name), tr); err != nil {
			return fmt.Errorf("%s: %w", name, cause(err))
		}
	}
	for name, target := range links {
		if err := s.root.Symlink(target, path.Join(s.temp, name)); err != nil {
			return fmt.Errorf("%s: %w", name, ErrConflict)
		}
	}
	return nil
}

// entry unpacks a directory, a file, or what a symbolic link needs to stand in.
func (s *stage) entry(ctx context.Context, head *tar.Header, to string, r io.Reader) error {
	if err := s.dir(path.Dir(to)); err != nil {
		return err
	}
	switch head.Typeflag {
	case tar.TypeDir:
		return s.dir(to)
	case tar.TypeReg:
		return s.file(ctx, to, r, head.FileInfo().Mode())
	case tar.TypeLink:
		return s.hardLink(path.Clean(head.Linkname), to)
	case tar.TypeSymlink:
		return s.stats.count(0)
	}
	s.stats.Skipped++
	return nil
}

// hardLink gives a file that was unpacked before a second name. There is no
// symbolic link yet that could make it one of another place.
func (s *stage) hardLink(name, to string) error {
	err := fs.ErrNotExist
	if filepath.IsLocal(name) {
		err = s.root.Link(path.Join(s.temp, name), to)
	}
	if errors.Is(err, fs.ErrNotExist) { // it was left out
		s.stats.Skipped++
		return nil
	}
	return errors.Join(err, s.stats.count(0))
}

// dir makes a directory and those above it, which count as files do: an archive
// of nothing else would fill the disk, too.
func (s *stage) dir(name string) error {
	info, err := s.root.Lstat(name)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return ErrConflict
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := s.dir(path.Dir(name)); err != nil {
		return err
	}
	if s.dirs++; s.dirs > MaxFiles {
		return ErrTooMuch
	}
	return s.root.Mkdir(name, 0o755)
}

// file writes a new file. A guest does not say who owns it, nor does it set
// the bits that let it run as another.
func (s *stage) file(ctx context.Context, to string, r io.Reader, mode fs.FileMode) error {
	f, err := s.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(reader{ctx, r}, MaxBytes-s.stats.Bytes+1))
	return errors.Join(err, s.stats.count(n), f.Chmod(mode.Perm()&^0o022|0o600), f.Close())
}

// merge moves what was unpacked into the existing directory, file by file. It
// looks for conflicts before it moves anything.
func (s *stage) merge() error {
	type move struct {
		from, to string
		dir      bool
	}
	var moves []move
	err := fs.WalkDir(s.root.FS(), s.temp, func(from string, entry fs.DirEntry, err error) error {
		if err != nil || from == s.temp {
			return err
		}
		to := path.Join(s.name, from[len(s.temp):])
		info, err := s.root.Lstat(to)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.IsDir() != entry.IsDir():
			return fmt.Errorf("%s: %w", to, ErrConflict)
		}
		moves = append(moves, move{from, to, entry.IsDir()})
		return nil
	})
	for _, m := range moves {
		if err != nil {
			break
		}
		if m.dir {
			err = s.root.MkdirAll(m.to, 0o755)
		} else {
			err = s.root.Rename(m.from, m.to)
		}
	}
	return cause(err)
}
