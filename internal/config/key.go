package config

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/agentlab-mcp/agentlab/internal/durable"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// InstanceKey returns the key of the installation whose state directory is
// dir, and makes it at the very first start. The caller holds the lock of the
// directory.
//
// The key is never replaced. Machines made under it obey no other, so that a
// key that is lost or damaged is an error for a person to mend.
func InstanceKey(dir *os.File) (provisioner.Key, error) {
	secret, err := KeyBytes(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := neverUsed(dir); err != nil {
			return provisioner.Key{}, err
		}
		if err := makeKey(dir, KeyFile); err != nil {
			return provisioner.Key{}, fmt.Errorf("make instance key: %w", err)
		}
		secret, err = KeyBytes(dir)
	}
	if err != nil {
		return provisioner.Key{}, err
	}
	return provisioner.NewKey(secret)
}

// KeyBytes returns the key of the installation whose state directory is dir,
// and makes none.
func KeyBytes(dir *os.File) ([]byte, error) {
	secret, err := readKey(dir, KeyFile)
	if errors.Is(err, errKeySize) {
		err = fmt.Errorf("%w; put it back from a backup", err)
	}
	if err != nil {
		return nil, fmt.Errorf("instance key %s/%s: %w", dir.Name(), KeyFile, err)
	}
	return secret, nil
}

// InstanceID names the installation that has this key. It is no secret.
func InstanceID(k provisioner.Key) (string, error) {
	id, err := k.Derive("instance id")
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(id[:8]), nil
}

// errKeySize: a file is no key.
var errKeySize = fmt.Errorf("want a file of %d bytes", provisioner.KeySize)

func readKey(dir *os.File, name string) ([]byte, error) {
	f, err := os.OpenFile(At(dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Cause(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, Cause(err)
	}
	if err := ownedAndClosed(info, 0o077, os.Geteuid()); err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != provisioner.KeySize {
		return nil, fmt.Errorf("%w, got %d", errKeySize, info.Size())
	}
	secret := make([]byte, provisioner.KeySize)
	_, err = io.ReadFull(f, secret)
	return secret, Cause(err)
}

// neverUsed returns an error if the directory holds what was made under a key
// that is gone.
func neverUsed(dir *os.File) error {
	for _, name := range []string{DatabaseFile, MachinesDir} {
		if _, err := os.Lstat(At(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("instance key %s/%s is gone and sandboxes were made under it; put it back from a backup, or move %s out of the way to start anew",
				dir.Name(), KeyFile, dir.Name())
		}
	}
	return nil
}

// makeKey writes the whole key under another name first. Link, unlike rename,
// never replaces a file.
func makeKey(dir *os.File, name string) error {
	draft := At(dir, name+".new")
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a start that was killed
		return Cause(err)
	}
	defer func() { _ = os.Remove(draft) }()
	secret := make([]byte, provisioner.KeySize)
	rand.Read(secret)
	if err := durable.WriteNew(draft, secret); err != nil {
		return Cause(err)
	}
	if err := os.Link(draft, At(dir, name)); err != nil {
		return Cause(err)
	}
	return dir.Sync()
}

// Cause reduces an error of the file system to its errno: a path of [At] would
// tell nobody anything.
func Cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
