// Package files reads, replaces and lists the files of the guest, for a host
// that wants exact errors, ranges and atomic replacement in one round trip
// each, on names of any bytes.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// FS does what guest.Conn promises about files on the machine it runs on.
type FS struct {
	Home string // what relative paths begin at
}

// Reader reads a range of a regular file.
type Reader struct {
	file *os.File
	left int64
}

// Open opens path for reading n bytes from off; see guest.Conn.ReadFile. It
// never blocks, whatever path names.
func (f FS) Open(path string, off, n int64) (*Reader, guest.FileInfo, error) {
	file, info, err := openRegular(f.abs(path), os.O_RDONLY)
	if err != nil {
		return nil, guest.FileInfo{}, explain("read", path, err)
	}
	if off < 0 {
		off = max(0, info.Size()+off)
	}
	if _, err := file.Seek(off, 0); err != nil {
		return nil, guest.FileInfo{}, errors.Join(explain("read", path, err), file.Close())
	}
	if n < 0 {
		n = 1<<63 - 1
	}
	return &Reader{file: file, left: n}, describe(path, info), nil
}

// Read reads the next of the range.
func (r *Reader) Read(b []byte) (int, error) {
	if int64(len(b)) > r.left {
		b = b[:r.left]
	}
	if len(b) == 0 {
		return 0, io.EOF
	}
	n, err := r.file.Read(b)
	r.left -= int64(n)
	return n, err
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// openRegular opens a regular file and nothing else. It looks before it opens,
// since opening a device may already do something, and again after it.
func openRegular(path string, flag int) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil {
		err = checkRegular(info)
	}
	if err != nil {
		return nil, nil, err
	}
	file, err := os.OpenFile(path, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if info, err = file.Stat(); err == nil {
		err = checkRegular(info)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

func checkRegular(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return guest.ErrIsDir
	case !info.Mode().IsRegular():
		return guest.ErrNotRegular
	}
	return nil
}

func (f FS) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(f.Home, path)
}

// describe returns info as guest.FileInfo under the name path.
func describe(path string, info fs.FileInfo) guest.FileInfo {
	out := guest.FileInfo{Path: path, Size: info.Size(), Mode: info.Mode(), MTime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.UID, out.GID = st.Uid, st.Gid
		out.MTime = time.Unix(st.Mtim.Unix())
	}
	return out
}

// errnos are the errors of the file system that guest has a name for, beyond
// those that fs has.
var errnos = []struct {
	errno syscall.Errno
	is    error
}{
	{syscall.EISDIR, guest.ErrIsDir},
	{syscall.ENOTDIR, guest.ErrNotDir},
	{syscall.ENOSPC, guest.ErrNoSpace},
	{syscall.EDQUOT, guest.ErrNoSpace},
	{syscall.EFBIG, guest.ErrNoSpace},
	{syscall.EROFS, fs.ErrPermission},
	{syscall.ENXIO, guest.ErrNotRegular}, // a pipe or a socket with nobody behind it
}

// explain says what was done to path and which of guest's errors it met.
func explain(verb, path string, err error) error {
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		err = link.Err
	}
	for _, e := range errnos {
		if errors.Is(err, e.errno) && !errors.Is(err, e.is) {
			return fmt.Errorf("%s %s: %w (%v)", verb, path, e.is, err)
		}
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}
