package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// maxLinks is how many symbolic links are followed before they count as a loop.
const maxLinks = 40

// Writer writes one file. Nothing is to be seen of it before Commit, unless it
// appends.
type Writer struct {
	path   string // as asked
	target string // what it leads to
	opt    guest.WriteOptions
	file   *os.File
	old    fs.FileInfo // of the file that is replaced; nil if there is none
	bytes  int64
}

// Create prepares to write path; see guest.Conn.WriteFile. The caller ends it
// with Commit or Abort.
func (f FS) Create(path string, opt guest.WriteOptions) (*Writer, error) {
	w := &Writer{path: path, opt: opt}
	if err := w.open(f.abs(path)); err != nil {
		return nil, explain("write", path, err)
	}
	return w, nil
}

func (w *Writer) open(path string) (err error) {
	if w.target, w.old, err = follow(path); err != nil {
		return err
	}
	if w.old != nil {
		if err := checkRegular(w.old); err != nil {
			return err
		}
	}
	if err := w.unchanged(w.old); err != nil {
		return err
	}
	if w.old == nil {
		if strings.HasSuffix(w.target, "/") {
			return guest.ErrIsDir
		}
		if err := os.MkdirAll(filepath.Dir(w.target), 0o755); err != nil {
			return err
		}
	}
	if w.opt.Append {
		return w.openAppend()
	}
	w.file, err = os.CreateTemp(filepath.Dir(w.target), ".agentlab-*")
	return err
}

func (w *Writer) openAppend() (err error) {
	if w.old != nil {
		w.file, w.old, err = openRegular(w.target, os.O_WRONLY|os.O_APPEND)
		return err
	}
	const flag = os.O_WRONLY | os.O_APPEND | os.O_CREATE | os.O_EXCL
	if w.file, err = os.OpenFile(w.target, flag, 0o600); err != nil {
		return err
	}
	return w.file.Chmod(w.mode())
}

// follow returns what path leads to through symbolic links, and its
// description unless it does not exist.
func follow(path string) (string, fs.FileInfo, error) {
	for range maxLinks {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil, nil
		}
		if err != nil {
			return "", nil, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			return path, info, nil
		}
		to, err := os.Readlink(path)
		if err != nil {
			return "", nil, err
		}
		if !filepath.IsAbs(to) { // not Join: it would undo a .. that a link leads away from
			to = filepath.Dir(path) + "/" + to
		}
		path = to
	}
	return "", nil, syscall.ELOOP
}

// unchanged checks opt.Unless against the file as it is now.
func (w *Writer) unchanged(now fs.FileInfo) error {
	if w.opt.Unless == nil {
		return nil
	}
	if now == nil || now.Size() != w.opt.Unless.Size || !now.ModTime().Equal(w.opt.Unless.MTime) {
		return guest.ErrChanged
	}
	return nil
}

// mode is what the file is to have: what was asked for, what it had, or 0644.
func (w *Writer) mode() fs.FileMode {
	switch {
	case w.opt.Mode != 0:
		return w.opt.Mode.Perm()
	case w.old != nil:
		return w.old.Mode()
	}
	return 0o644
}

// Write adds b.
func (w *Writer) Write(b []byte) (int, error) {
	n, err := w.file.Write(b)
	w.bytes += int64(n)
	if err != nil {
		return n, explain("write", w.path, err)
	}
	return n, nil
}

// Commit makes path hold what was written.
func (w *Writer) Commit() (guest.WriteResult, error) {
	res := guest.WriteResult{Bytes: w.bytes, Created: w.old == nil}
	var err error
	if w.opt.Append {
		if w.opt.Mode != 0 {
			err = w.file.Chmod(w.mode())
		}
		err = errors.Join(err, w.file.Close())
	} else if err = w.replace(); err != nil {
		w.Abort()
	}
	if err != nil {
		return guest.WriteResult{}, explain("write", w.path, err)
	}
	return res, nil
}

// replace moves the new file over the old one.
func (w *Writer) replace() error {
	if w.old != nil {
		if st, ok := w.old.Sys().(*syscall.Stat_t); ok {
			if err := w.file.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return fmt.Errorf("keep its owner: %w", err)
			}
		}
	}
	if err := w.file.Chmod(w.mode()); err != nil { // after chown, which drops bits
		return err
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	if err := w.later(); err != nil {
		return err
	}
	if w.opt.Unless != nil {
		now, err := os.Lstat(w.target)
		if err != nil {
			return guest.ErrChanged
		}
		if err := w.unchanged(now); err != nil {
			return err
		}
	}
	return os.Rename(w.file.Name(), w.target)
}

// later makes the new file younger than the old one: a clock that ticks every
// few milliseconds would let two versions pass for one.
func (w *Writer) later() error {
	if w.old == nil {
		return nil
	}
	info, err := os.Stat(w.file.Name())
	if err != nil || info.ModTime().After(w.old.ModTime()) {
		return err
	}
	next := w.old.ModTime().Add(time.Microsecond)
	return os.Chtimes(w.file.Name(), next, next)
}

// Abort leaves path as it was; what was appended stays.
func (w *Writer) Abort() {
	_ = w.file.Close()
	if !w.opt.Append {
		_ = os.Remove(w.file.Name())
	}
}
