package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupParent = "agentlab" // all machines' cgroups are below it
)

// cgroupName returns the name of the cgroup of machine id. Another Dir on this
// host never has the same.
func (st *state) cgroupName(id string) string {
	sum := sha256.Sum256([]byte(st.dir))
	return id + "-" + hex.EncodeToString(sum[:4])
}

// cgroupsWritable says whether cgroups that limit memory can be made: version
// 2, or version 1 with its memory controller.
func cgroupsWritable() bool {
	parent := filepath.Join(cgroupRoot, "memory", cgroupParent)
	if unified() {
		parent = filepath.Join(cgroupRoot, cgroupParent)
	}
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return false
	}
	return unix.Access(parent, unix.W_OK) == nil
}

func unified() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// removeCgroups removes the cgroups of machine id, whose processes are dead.
// The kernel may need a moment to see that they are empty.
func (st *state) removeCgroups(ctx context.Context, id string) error {
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupParent, st.cgroupName(id)))
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	dirs = append(dirs, filepath.Join(cgroupRoot, cgroupParent, st.cgroupName(id)))
	for _, dir := range dirs {
		if err := removeCgroup(ctx, dir); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

func removeCgroup(ctx context.Context, dir string) error {
	for {
		err := ignoreGone(unix.Rmdir(dir))
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
