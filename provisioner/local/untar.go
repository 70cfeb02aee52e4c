package local

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// untar unpacks the archive at file into dir. Nothing is written outside dir,
// whatever the archive's names and links say: os.Root sees to it. Devices are
// left out; owners too, since a machine has but one user on the host.
func (st *state) untar(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("%w: %w", err, provisioner.ErrInvalid)
	}
	defer f.Close()
	archive, err := decompress(f)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{st: st, root: root, modes: make(map[string]fs.FileMode)}
	if err := u.all(ctx, tar.NewReader(archive)); err != nil {
		return err
	}
	return u.finish()
}

// decompress returns what the archive r holds, told by its first bytes.
func decompress(r io.Reader) (io.Reader, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	magic, err := buf.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		z, err := gzip.NewReader(buf)
		if err != nil {
			return nil, fmt.Errorf("decompress (%v): %w", err, provisioner.ErrInvalid)
		}
		return z, nil
	case string(magic) == "\x28\xb5\x2f\xfd", string(magic) == "\xfd7zX":
		return nil, fmt.Errorf("compressed with zstd or xz: decompress it first, or use gzip: %w", provisioner.ErrInvalid)
	}
	return buf, nil
}

type unpacker struct {
	st    *state
	root  *os.Root
	modes map[string]fs.FileMode // of directories, set when all is in them
	count int
}

func (u *unpacker) all(ctx context.Context, archive *tar.Reader) error {
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("not a tar archive, or a broken one (%v): %w", err, provisioner.ErrInvalid)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.entry(h, archive); err != nil {
			if errors.Is(noSpace(err), provisioner.ErrExhausted) {
				return fmt.Errorf("unpack %q: %w", h.Name, noSpace(err))
			}
			return fmt.Errorf("unpack %q (%v): %w", h.Name, err, provisioner.ErrInvalid)
		}
		u.count++
	}
	if u.count == 0 {
		return fmt.Errorf("the archive is empty: %w", provisioner.ErrInvalid)
	}
	return nil
}

// entry makes what h describes. A leading slash is dropped, as tar does; a
// name that leads outside is an error.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := relative(h.Name)
	if name == "." {
		return nil
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(name, mode)
	case tar.TypeReg:
		return u.file(name, mode, content)
	case tar.TypeSymlink:
		if err := u.replace(name); err != nil {
			return err
		}
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		if err := u.replace(name); err != nil {
			return err
		}
		return u.root.Link(relative(h.Linkname), name)
	}
	return nil // a device, a pipe: gVisor has its own /dev
}

func relative(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// dir makes a directory that we can write to, whatever its mode will be.
func (u *unpacker) dir(name string, mode fs.FileMode) error {
	if fi, err := u.root.Lstat(name); err != nil || !fi.IsDir() {
		if err := u.replace(name); err != nil {
			return err
		}
		if err := u.root.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	u.modes[name] = mode
	return nil
}

func (u *unpacker) file(name string, mode fs.FileMode, content io.Reader) error {
	if err := u.replace(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chmod(name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

// replace removes what an earlier entry put at name.
func (u *unpacker) replace(name string) error {
	delete(u.modes, name)
	return ignoreGone(u.root.Remove(name))
}

// finish adds what machines need, gives all to the guest and sets the modes of
// the directories.
func (u *unpacker) finish() error {
	for _, d := range emptyDirs {
		if _, err := u.root.Lstat(d.path); err == nil {
			continue
		}
		if err := u.root.MkdirAll(d.path, 0o755); err != nil {
			return fmt.Errorf("add /%s (%v): %w", d.path, err, provisioner.ErrInvalid)
		}
		u.modes[d.path] = d.mode
	}
	if err := u.give(); err != nil {
		return err
	}
	for name, mode := range u.modes {
		if err := u.root.Chmod(name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return fmt.Errorf("set mode of %q: %w", name, err)
		}
	}
	return nil
}

// give makes all that was unpacked the guest's. Changing an owner takes the
// setuid bits away, so they are put back.
func (u *unpacker) give() error {
	if u.st.rootless() {
		return nil
	}
	return fs.WalkDir(u.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if err := u.root.Lchown(name, nobody, nobody); err != nil {
			return err
		}
		if special := fi.Mode() & (fs.ModeSetuid | fs.ModeSetgid); special != 0 && fi.Mode()&fs.ModeSymlink == 0 {
			return u.root.Chmod(name, fi.Mode().Perm()|special)
		}
		return nil
	})
}
