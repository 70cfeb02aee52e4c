package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/agentlab-mcp/agentlab/internal/durable"
)

// SSHKey returns the ed25519 seed of the key by which SSH clients of the user whose
// state directory is dir know the server that this program is for them, and makes
// it at the first time. Known makes the known_hosts file that goes with it.
//
// Whoever has the key can do nothing with it but pretend to be such a server.
func SSHKey(dir *os.File, known func(seed []byte) (string, error)) (seed []byte, err error) {
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil { // until dir is closed
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	seed, err = readKey(dir, SSHKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(dir, SSHKeyFile); err != nil {
			return nil, fmt.Errorf("make %s/%s: %w", dir.Name(), SSHKeyFile, err)
		}
		seed, err = readKey(dir, SSHKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w; it may be removed, and is made anew", dir.Name(), SSHKeyFile, err)
	}
	text, err := known(seed)
	if err != nil {
		return nil, err
	}
	if err := replace(dir, SSHKnownFile, text); err != nil {
		return nil, fmt.Errorf("write %s/%s: %w", dir.Name(), SSHKnownFile, Cause(err))
	}
	return seed, nil
}

// replace makes a file have a text, whole or not at all. The caller holds the lock
// of the directory.
func replace(dir *os.File, name, text string) error {
	if is, err := os.ReadFile(At(dir, name)); err == nil && string(is) == text {
		return nil
	}
	draft := At(dir, name+".new")
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return err
	}
	if err := durable.WriteNew(draft, []byte(text)); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return os.Rename(draft, At(dir, name))
}
