// Package confine sets the limits of a sandbox from its inside, before anything
// of its user runs, and takes from all of it the means to undo them.
//
// It knows gVisor: the processes are counted by gVisor's own cgroupfs, which is
// mounted only while this package works. What could bring it back is gone
// afterwards: CAP_SYS_ADMIN from every bounding set, and, since a user
// namespace would give it anew, mount from the system calls of every command.
package confine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Confine does what seed asks for, on a host that has started nothing yet. With
// no limit and nothing to hide it does nothing and needs no privilege. What
// guards the memory ends with ctx.
func Confine(ctx context.Context, host *proc.Host, seed guest.Seed, shared string) error {
	if seed.MemoryMB > 0 {
		host.Started = make(chan struct{}, 1)
		go guardMemory(ctx, host, int64(seed.MemoryMB)<<20)
	}
	if seed.MaxProcs > 0 {
		fork, err := limitProcs(seed.MaxProcs)
		if err != nil {
			return fmt.Errorf("limit processes: %w", err)
		}
		host.Fork = fork
	}
	if seed.HideShared {
		if err := hide(shared); err != nil {
			return fmt.Errorf("hide the shared directory: %w", err)
		}
	}
	if seed.MaxProcs == 0 && !seed.HideShared {
		return nil
	}
	if seed.Pooled {
		r := newRenamer(host.Fork)
		host.Rename, host.Fork = r.rename, r.start
	}
	return dropCapabilities(seed.Pooled)
}

// hide unmounts dir and keeps it open for good: gVisor gives up the connection
// to the host that a mount has, and with it our listening socket, when nothing
// of the mount is in use any more.
func hide(dir string) error {
	if _, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}

// limitProcs makes a process group of the kernel's that holds at most n
// processes and threads, and returns a fork whose children are in it. This
// process stays outside: it must not run out of threads.
func limitProcs(n int) (fork proc.Fork, err error) {
	dir, err := os.MkdirTemp("/", ".agentlab-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount("cgroup", dir, "cgroup", 0, "pids"); err != nil {
		return nil, fmt.Errorf("mount cgroup: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)) }()
	group := filepath.Join(dir, "commands")
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, err
	}
	limit := strconv.Itoa(n + forkers) // the threads that fork are in it too
	if err := os.WriteFile(filepath.Join(group, "pids.max"), []byte(limit), 0); err != nil {
		return nil, err
	}
	return startForkers(filepath.Join(group, "tasks"))
}

// dropped are the capabilities that would undo limits or reach this process.
// Everything else root may do, it may do: it is root of nothing but a sandbox.
var dropped = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_PTRACE, unix.CAP_SYS_BOOT,
}

// dropCapabilities takes the dropped from all threads, and from all they start.
// What rename needs this process may keep: it has it, but does not use it, and
// nothing that it starts gets it.
func dropCapabilities(keepRename bool) error {
	// Without CAP_SYS_PTRACE nobody looks into a process that can't be dumped.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide our memory: %w", err)
	}
	sets, err := capget()
	if err != nil {
		return err
	}
	for _, c := range dropped {
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			return fmt.Errorf("drop capability %d: %w", c, errno)
		}
		sets.take(c)
	}
	if keepRename {
		sets[0].Permitted |= 1 << unix.CAP_SYS_ADMIN
	}
	return capset(&sets)
}
