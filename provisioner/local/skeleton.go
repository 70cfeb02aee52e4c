package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layoutVersion changes when what we put into a root file system does.
const layoutVersion = 1

// hostPrograms are what the default root shows of the host, read-only. On a
// system with merged /usr all but the first are links into it.
var hostPrograms = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// hostEtc are the files and directories of the host's /etc that programs in
// /usr need to run and that hold no secret and nothing of the host's identity:
// the links of Debian's alternatives, the linker's cache, public certificates,
// the settings that Java, Perl and Python keep outside /usr. Only what everyone
// may read is taken.
var hostEtc = []string{
	"alternatives", "bash.bashrc", "bash_completion.d", "ca-certificates.conf", "debian_version", "inputrc",
	"java", "java-*", ".java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "magic",
	"magic.mime", "mime.types", "os-release", "papersize", "perl", "pki/tls/certs", "pki/ca-trust/extracted",
	"protocols", "python3*", "rpc", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
}

// generatedEtc are the files of /etc that we write ourselves.
var generatedEtc = map[string]string{
	"passwd": "root:x:0:0:root:" + guestHome + ":/bin/bash\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"group":         "root:x:0:\ndaemon:x:1:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n",
	"hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	"host.conf":     "multi on\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
	"resolv.conf":   "",
	"fstab":         "",
	"shells":        "/bin/sh\n/bin/bash\n",
	"profile": "export PATH=\"${PATH:-" + guestPath + "}\"\n" +
		"if [ -n \"${BASH-}\" ] && [ \"${-#*i}\" != \"$-\" ] && [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi\n",
}

// emptyDirs are made in each root file system of ours, with their modes.
// /tmp is not empty, since gVisor covers an empty one with a file system in
// memory, without a limit of its own.
var emptyDirs = []struct {
	path string
	mode fs.FileMode
}{
	{"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"mnt", 0o755}, {"opt", 0o755}, {"proc", 0o755},
	{"root", 0o700}, {"run", 0o755}, {"srv", 0o755}, {"sys", 0o755},
	{"tmp", 0o777 | fs.ModeSticky}, {"tmp/.X11-unix", 0o777 | fs.ModeSticky}, {"usr", 0o755}, {"var", 0o755},
	{"var/cache", 0o755}, {"var/lib", 0o755}, {"var/log", 0o755}, {"var/tmp", 0o777 | fs.ModeSticky},
	{strings.TrimPrefix(guestHome, "/"), 0o755},
}

// buildSkeleton makes the lower directory of the default root, named by its
// contents: an upgrade of the host or of ours makes another one, and machines
// that run keep theirs.
func (st *state) buildSkeleton() (dir string, binds []string, err error) {
	temp, err := os.MkdirTemp(st.rootfsDir(), tempPrefix)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, removeTree(temp)) }()
	b := &builder{st: st, dir: temp, sum: sha256.New()}
	fmt.Fprintln(b.sum, "skeleton", layoutVersion, st.uid)
	binds = b.fill()
	if b.err != nil {
		return "", nil, b.err
	}
	if err := errors.Join(os.Chmod(temp, 0o755), st.giveToGuest(temp)); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(st.rootfsDir(), hex.EncodeToString(b.sum.Sum(nil)))
	if exists(dir) {
		return dir, binds, nil
	}
	return dir, binds, os.Rename(temp, dir)
}

// builder makes files below dir and adds all it makes to sum. After an error
// it does nothing more.
type builder struct {
	st  *state
	dir string
	sum hash.Hash
	err error
}

// fill makes the whole skeleton and returns what is to be mounted over it.
func (b *builder) fill() (binds []string) {
	for _, d := range emptyDirs {
		b.mkdir(d.path, d.mode)
	}
	for _, path := range hostPrograms {
		fi, err := os.Lstat(path)
		switch {
		case err != nil: // this host has none
		case fi.Mode()&fs.ModeSymlink != 0:
			b.copy(path, strings.TrimPrefix(path, "/"), fi)
		default:
			b.mkdir(strings.TrimPrefix(path, "/"), 0o755)
			binds = append(binds, path)
		}
	}
	for _, pattern := range hostEtc {
		paths, err := filepath.Glob(filepath.Join("/etc", pattern))
		b.fail(err)
		for _, path := range paths {
			b.copyTree(path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(generatedEtc)) {
		b.write(filepath.Join("etc", name), []byte(generatedEtc[name]), 0o644)
	}
	b.link("/proc/self/mounts", "etc/mtab")
	b.link("../run", "var/run")
	return binds
}

func (b *builder) fail(err error) { b.err = errors.Join(b.err, err) }

// made adds what was made to the sum and gives it to the guest.
func (b *builder) made(name string, err error, what ...any) {
	if err == nil {
		fmt.Fprintf(b.sum, "%q %v\n", name, what)
		err = b.st.giveToGuest(filepath.Join(b.dir, name))
	}
	b.fail(err)
}

func (b *builder) mkdir(name string, mode fs.FileMode) {
	if b.err != nil || exists(filepath.Join(b.dir, name)) {
		return
	}
	if parent := filepath.Dir(name); parent != "." {
		b.mkdir(parent, 0o755)
	}
	path := filepath.Join(b.dir, name)
	b.made(name, errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, mode)), "dir", mode)
}

func (b *builder) write(name string, data []byte, mode fs.FileMode) {
	if b.err != nil {
		return
	}
	b.made(name, os.WriteFile(filepath.Join(b.dir, name), data, mode), mode, sha256.Sum256(data))
}

func (b *builder) link(target, name string) {
	if b.err != nil {
		return
	}
	b.made(name, os.Symlink(target, filepath.Join(b.dir, name)), "link", target)
}

// copyTree copies what is at path on the host to the same place.
func (b *builder) copyTree(path string) {
	b.fail(filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		var fi fs.FileInfo
		if err == nil {
			fi, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // went away, or is not for everyone to read
		}
		if err != nil {
			return err
		}
		if fi.IsDir() && fi.Mode()&0o005 != 0o005 {
			return fs.SkipDir
		}
		b.copy(path, strings.TrimPrefix(path, "/"), fi)
		return b.err
	}))
}

// copy copies one directory, link or regular file that everyone may read.
func (b *builder) copy(path, name string, fi fs.FileInfo) {
	switch {
	case fi.IsDir():
		b.mkdir(name, 0o755)
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		b.fail(err)
		b.mkdir(filepath.Dir(name), 0o755)
		b.link(target, name)
	case fi.Mode().IsRegular() && fi.Mode()&0o004 != 0:
		data, err := os.ReadFile(path)
		if err != nil {
			return
		}
		b.mkdir(filepath.Dir(name), 0o755)
		b.write(name, data, fi.Mode().Perm()&^0o022)
	}
}
