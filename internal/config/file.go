package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// OpenDir opens a directory of ours and makes it, with its parents, if there
// is none. One that another user owns or can write, or that is a symbolic
// link, is refused: whoever can change it could put a socket, a key or a
// database of their own there. What is done in the directory goes through the
// open file, so that it can't be exchanged after it was checked.
func OpenDir(path string, mode fs.FileMode) (*os.File, error) {
	err := os.MkdirAll(path, mode)
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) { // these are told better below
		return nil, fmt.Errorf("make directory: %w", err)
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			return nil, fmt.Errorf("%s: want a directory, not a file or a symbolic link", path)
		}
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := secureDir(dir, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("directory %s: %w", path, err), dir.Close())
	}
	return dir, nil
}

func secureDir(dir *os.File, mode fs.FileMode) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if err := ownedAndClosed(info, 0o022, os.Geteuid()); err != nil {
		return err
	}
	if info.Mode().Perm() == mode {
		return nil
	}
	return dir.Chmod(mode)
}

// At returns a path of name in the open directory dir that holds as long as
// dir is open, whatever becomes of the directory's own path, and that is short
// enough for the address of a socket.
func At(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// ownedAndClosed returns an error if a user not in owners owns the file, or if
// its mode has any of the bits of forbidden.
func ownedAndClosed(info fs.FileInfo, forbidden fs.FileMode, owners ...int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is not known")
	}
	owned := false
	for _, uid := range owners {
		owned = owned || int(st.Uid) == uid
	}
	if !owned {
		return fmt.Errorf("it belongs to user %d and we are user %d", st.Uid, os.Geteuid())
	}
	if bad := info.Mode().Perm() & forbidden; bad != 0 {
		return fmt.Errorf("others may use it (mode %#o); run chmod %#o on it", info.Mode().Perm(), info.Mode().Perm()&^forbidden)
	}
	return nil
}

// readFile reads a file of an operator's. It decides which programs we run, so
// it must not be one that anybody can write.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not stop us
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	const most = 1 << 20
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, nil, fmt.Errorf("%s: want a regular file of at most 1 MiB", path)
	}
	if err := ownedAndClosed(info, 0o002, os.Geteuid(), 0); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Clean(path), err)
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	return data, info, err
}

// Secret returns what is in a file with nothing but a secret, without the space
// around it. A file that others can read is refused.
func Secret(path string) (redact.String, error) {
	data, info, err := readFile(path)
	if err != nil {
		return "", err
	}
	if err := private(info); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return redact.String(strings.TrimSpace(string(data))), nil
}

// private returns an error if others than we can read the file. One of root's
// that is shown to us is shown to our group.
func private(info fs.FileInfo) error {
	forbidden := fs.FileMode(0o077)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		forbidden = 0o007
	}
	return ownedAndClosed(info, forbidden, os.Geteuid(), 0)
}
