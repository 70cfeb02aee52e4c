package local

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// rootfs is what a machine's root file system is made of. All of it is only
// read; what the machine writes is in a layer of its own.
type rootfs struct {
	dir   string   // the lower directory
	binds []string // directories of the host that it shows, read-only
	tmpfs bool     // /tmp is a file system in memory; else it is on the disk layer
	os    string   // for people
	run   string   // an empty /run with the mount points that machines need
	guest string   // path of our copy of agentlab-guest
}

// keepRootfs is how long a root file system that no machine uses is kept.
const keepRootfs = 7 * 24 * time.Hour

var hashName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// root returns the root file system that a spec names: "" is this host's
// programs, else a directory ("dir:/path" or "/path") or a tar archive
// ("/path"), which is unpacked once.
func (p *Provisioner) root(ctx context.Context, st *state, t tools, name string) (rootfs, error) {
	r := rootfs{guest: t.guest}
	var err error
	if r.run, err = st.mountPoints(); err != nil {
		return r, fmt.Errorf("make mount points: %w", noSpace(err))
	}
	if name == "" {
		r.dir, r.binds, err = p.hostSkeleton(st)
		if err != nil {
			return r, fmt.Errorf("make root file system: %w", noSpace(err))
		}
		r.os = osName("/")
		return r, touch(r.dir)
	}
	src, err := findSource(name)
	if err != nil {
		return r, err
	}
	if src.info.IsDir() {
		r.dir, r.tmpfs = src.path, true
	} else {
		if r.dir, err = p.unpacked(ctx, st, src); err != nil {
			return r, fmt.Errorf("root %q: %w", name, err)
		}
		if err := touch(r.dir); err != nil {
			return r, err
		}
	}
	r.os = osName(r.dir)
	return r, nil
}

// source is a directory or an archive that a root file system is made of.
type source struct {
	path string
	info fs.FileInfo
}

// findSource returns what a spec names that is not this host's programs.
func findSource(name string) (source, error) {
	invalid := func(why string) (source, error) {
		return source{}, fmt.Errorf("root %q: %s; it must be an absolute path of a directory or of a tar archive: %w", name, why, provisioner.ErrInvalid)
	}
	path, onlyDir := strings.CutPrefix(name, "dir:")
	if !filepath.IsAbs(path) {
		return invalid("not an absolute path")
	}
	path = filepath.Clean(path)
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return invalid(errors.Unwrap(err).Error())
	case fi.IsDir():
		if run, err := os.Lstat(filepath.Join(path, "run")); err != nil || !run.IsDir() {
			return invalid("it has no directory run (mkdir " + filepath.Join(path, "run") + ")")
		}
	case onlyDir || !fi.Mode().IsRegular():
		return invalid("not a directory")
	}
	return source{path, fi}, nil
}

// version tells which file it is and when it was changed, without reading it.
func (s source) version() string {
	sys := s.info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%q %d %d %d %d %d", s.path, sys.Dev, sys.Ino, sys.Size, sys.Mtim.Nano(), sys.Ctim.Nano())
}

// mountPoints returns a directory with the mount points that machines need
// below /run.
func (st *state) mountPoints() (string, error) {
	dir := filepath.Join(st.rootfsDir(), "mountpoints")
	if err := os.MkdirAll(filepath.Join(dir, filepath.Base(guestShared)), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, filepath.Base(guestBinary)), os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return "", err
	}
	return dir, f.Close()
}

// unpacked returns the directory that an archive is unpacked to. Its name
// follows from the version of the file, so that finding it again reads nothing.
func (p *Provisioner) unpacked(ctx context.Context, st *state, archive source) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "tar %d %s %d", layoutVersion, archive.version(), st.uid))
	name := hex.EncodeToString(sum[:])
	unlock, err := p.rootfs.Lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(st.rootfsDir(), name)
	if exists(dir) {
		return dir, nil
	}
	return dir, st.install(dir, func(temp string) error { return st.untar(ctx, archive.path, temp) })
}

// install makes dir appear whole: fill fills a temporary directory, which is
// then given its name.
func (st *state) install(dir string, fill func(temp string) error) error {
	temp, err := os.MkdirTemp(st.rootfsDir(), tempPrefix)
	if err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	if err := st.step("local fill root", func() error { return fill(temp) }); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	if err := st.giveToGuest(temp); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	if err := st.step("local name root", func() error { return os.Rename(temp, dir) }); err != nil {
		if exists(dir) { // another was faster
			return removeTree(temp)
		}
		return errors.Join(err, removeTree(temp))
	}
	return nil
}

// collect removes root file systems that no machine uses and none has used
// for a while. One that can't be told is kept. Copies of agentlab-guest go by
// age alone: a machine has opened its own.
func (p *Provisioner) collect(st *state) {
	used := make(map[string]bool)
	machines, err := os.ReadDir(st.machinesDir())
	if err != nil {
		return
	}
	for _, m := range machines {
		b, err := p.bundle(st, m.Name())
		if err != nil {
			return // it may use any
		}
		used[b.root] = true
	}
	entries, err := os.ReadDir(st.rootfsDir())
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(st.rootfsDir(), e.Name())
		fi, err := e.Info()
		ours := hashName.MatchString(e.Name()) || strings.HasPrefix(e.Name(), guestCopyPrefix)
		if err != nil || !ours || used[dir] || time.Since(fi.ModTime()) < keepRootfs {
			continue
		}
		if err := removeTree(dir); err != nil {
			st.log.Warn("an unused root file system stays", "path", dir, "err", err)
		}
	}
}

// touch notes that dir is in use.
func touch(dir string) error {
	now := time.Now()
	return os.Chtimes(dir, now, now)
}

// removeTree removes dir. A directory in it that may not be written, as
// archives have them, does not stop its owner.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		if d != nil && d.IsDir() {
			return err
		}
		return nil
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// osName returns the name of the system whose root is at dir.
func osName(dir string) string {
	name := "Linux"
	root, err := os.OpenRoot(dir)
	if err != nil {
		return name + " (gVisor)"
	}
	defer root.Close()
	for _, file := range []string{"usr/lib/os-release", "etc/os-release"} {
		data, err := root.ReadFile(file)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
				if u, err := strconv.Unquote(v); err == nil {
					v = u
				}
				return v + " (gVisor)"
			}
		}
	}
	return name + " (gVisor)"
}

// hostSkeleton returns the lower directory of the default root, made once in
// the life of this process, and what of the host is to be mounted over it.
func (p *Provisioner) hostSkeleton(st *state) (string, []string, error) {
	st.skeleton.Lock()
	defer st.skeleton.Unlock()
	if exists(st.skeleton.dir) {
		return st.skeleton.dir, st.skeleton.binds, nil
	}
	dir, binds, err := st.buildSkeleton()
	if err != nil {
		return "", nil, err
	}
	st.skeleton.dir, st.skeleton.binds = dir, binds
	return dir, binds, nil
}

// skeleton is the one that was made last.
type skeleton struct {
	sync.Mutex
	dir   string
	binds []string
}
