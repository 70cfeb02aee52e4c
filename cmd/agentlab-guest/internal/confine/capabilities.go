package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
)

// capSets are the capabilities of a thread. All that we name are in the first
// of the two words that a set has.
type capSets [2]unix.CapUserData

// take removes c from all sets.
func (s *capSets) take(c uintptr) {
	for _, set := range []*uint32{&s[0].Effective, &s[0].Permitted, &s[0].Inheritable} {
		*set &^= 1 << c
	}
}

func capHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// capget returns the capabilities of this thread, which are those of all.
func capget() (sets capSets, err error) {
	if err := unix.Capget(capHeader(), &sets[0]); err != nil {
		return sets, fmt.Errorf("read capabilities: %w", err)
	}
	return sets, nil
}

// capset sets the capabilities of all threads.
func capset(sets *capSets) error {
	header := capHeader()
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(sets)), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(sets)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

// renamer sets the name of a machine that was made ahead. For it this process has
// kept a capability, that it gives up before it starts the first command of whom
// the machine was renamed for.
type renamer struct {
	fork    proc.Fork
	renamed atomic.Bool
	giveUp  func() error // does it once
}

func newRenamer(fork proc.Fork) *renamer {
	if fork == nil {
		fork = syscall.ForkExec
	}
	return &renamer{fork: fork, giveUp: sync.OnceValue(giveUpRename)}
}

func (r *renamer) rename(name string) error {
	defer r.renamed.Store(true)
	if now, err := os.Hostname(); err == nil && now == name {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sets, err := capget()
	if err != nil {
		return err
	}
	raised := sets
	raised[0].Effective |= sets[0].Permitted & (1 << unix.CAP_SYS_ADMIN)
	if err := unix.Capset(capHeader(), &raised[0]); err != nil {
		return fmt.Errorf("raise capability: %w", err)
	}
	return errors.Join(unix.Sethostname([]byte(name)), unix.Capset(capHeader(), &sets[0]))
}

// start is a proc.Fork.
func (r *renamer) start(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	if r.renamed.Load() {
		if err := r.giveUp(); err != nil {
			return 0, err
		}
	}
	return r.fork(path, argv, attr)
}

func giveUpRename() error {
	sets, err := capget()
	if err != nil {
		return err
	}
	sets.take(unix.CAP_SYS_ADMIN)
	return capset(&sets)
}
