package hosttree

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// File is one file of this host, open for reading.
type File struct {
	*os.File
	Info fs.FileInfo
}

// Open opens what is at path. For a directory, Info says so, and Pack reads it.
//
// Errors: ErrNotAllowed, fs.ErrNotExist, fs.ErrPermission.
func (d Dirs) Open(path string) (*File, error) {
	p, err := d.open(path)
	if err != nil {
		return nil, err
	}
	defer p.close()
	info, err := p.root.Stat(p.name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	if !info.IsDir() && !info.Mode().IsRegular() { // opening a pipe would wait
		return nil, fmt.Errorf("%w: %q is neither file nor directory", ErrNotAllowed, path)
	}
	f, err := p.root.Open(p.name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	return &File{f, info}, nil
}

// Pack writes the directory at path to w as a tar. What a .gitignore in it
// names is left out.
//
// Errors: as Open, ErrTooMuch, ctx.Err, and those of w.
func (d Dirs) Pack(ctx context.Context, path string, w io.Writer) (Stats, error) {
	return d.pack(ctx, path, packer{tar: tar.NewWriter(w)})
}

// PackedSize returns how many bytes Pack would write now, without reading files.
//
// Errors: as Pack.
func (d Dirs) PackedSize(ctx context.Context, path string) (int64, error) {
	var size size
	_, err := d.pack(ctx, path, packer{tar: tar.NewWriter(&size), hollow: true})
	return int64(size), err
}

// size counts what is written to it.
type size int64

func (s *size) Write(p []byte) (int, error) {
	*s += size(len(p))
	return len(p), nil
}

func (d Dirs) pack(ctx context.Context, path string, k packer) (Stats, error) {
	p, err := d.open(path)
	if err != nil {
		return Stats{}, err
	}
	defer p.close()
	root, err := p.root.OpenRoot(p.name)
	if err != nil {
		return Stats{}, fmt.Errorf("%s: %w", path, cause(err))
	}
	defer root.Close()
	k.ctx, k.root = ctx, root
	if err := fs.WalkDir(root.FS(), ".", k.visit); err != nil {
		return k.stats, err
	}
	return k.stats, k.tar.Close()
}

type packer struct {
	ctx    context.Context
	root   *os.Root
	tar    *tar.Writer
	hollow bool         // files have their size, and nothing in them
	rules  []ignoreRule // of all .gitignore files so far
	stats  Stats
}

// nothing is what is in hollow files.
type nothing struct{}

func (nothing) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// visit packs one file. WalkDir gives a directory before what is in it.
func (k *packer) visit(name string, entry fs.DirEntry, err error) error {
	if err == nil {
		err = k.ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	switch {
	case name == ".":
		return k.ignores(name)
	case entry.IsDir() && inGit(entry.Name()):
		k.stats.Skipped++
		return fs.SkipDir
	case inGit(entry.Name()): // a file that says where the real one is
		k.stats.Skipped++
		return nil
	case ignored(k.rules, name, entry.IsDir()):
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	case entry.IsDir():
		return errors.Join(k.ignores(name), k.dir(name, entry))
	case entry.Type() == fs.ModeSymlink:
		return k.link(name)
	case entry.Type().IsRegular():
		return k.file(name)
	}
	k.stats.Skipped++
	return nil
}

// ignores reads the .gitignore of a directory.
func (k *packer) ignores(dir string) error {
	file := path.Join(dir, ".gitignore")
	if info, err := k.root.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := k.root.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, cause(err))
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for first := true; lines.Scan(); first = false {
		line := lines.Text()
		if first {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if r, ok := parseRule(line, dir); ok {
			k.rules = append(k.rules, r)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func (k *packer) dir(name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	return k.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	})
}

// link packs a symbolic link that stays inside.
func (k *packer) link(name string) error {
	target, err := k.root.Readlink(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	if !inside(name, target) {
		k.stats.Skipped++
		return nil
	}
	if err := k.stats.count(0); err != nil {
		return err
	}
	return k.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

// file packs a file as long as it was when it was opened, also if it grows.
func (k *packer) file(name string) error {
	f, err := k.root.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	if !info.Mode().IsRegular() { // it was when the directory was read
		k.stats.Skipped++
		return nil
	}
	if err := k.stats.count(info.Size()); err != nil {
		return err
	}
	head := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	}
	if err := k.tar.WriteHeader(head); err != nil {
		return err
	}
	content := reader{k.ctx, f}
	if k.hollow {
		content.Reader = nothing{}
	}
	if _, err := io.CopyN(k.tar, content, info.Size()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// inside says whether a symbolic link at name leads to a place in its tree. It
// may go up only before it goes down: what is below can be another link, and
// the directory above that is not the one that the text says.
func inside(name, target string) bool {
	down := target
	for strings.HasPrefix(down, "../") || strings.HasPrefix(down, "./") {
		_, down, _ = strings.Cut(down, "/")
	}
	climbs := down != ".." && slices.Contains(strings.Split(down, "/"), "..")
	return !climbs && !path.IsAbs(target) && fs.ValidPath(path.Join(path.Dir(name), target)) && !inGit(target)
}

// reader reads until ctx ends.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
