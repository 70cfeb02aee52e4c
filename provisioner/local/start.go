package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// bootLogSize bounds what a machine's first process may print, in bytes.
const bootLogSize = 32 << 10

// start starts the machine whose bundle is in place and waits for runsc to
// have started its first process.
func (st *state) start(ctx context.Context, t tools, spec provisioner.Spec) error {
	id := spec.Papers.Sandbox
	boot, err := newBootLog()
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	args := st.runscFlags(t, st.machineDir(id), spec.DiskMB)
	args = append(args, "run", "--detach", "--bundle="+st.machineDir(id), id)
	cmd := exec.CommandContext(ctx, t.runsc, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + guestPath, "TMPDIR=" + st.runscDir()}
	cmd.Stdout, cmd.Stderr = boot, boot
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cores := spec.Cores
	if st.cgroups {
		cores = 0 // the quota does it, and does not bind to certain ones
	}
	if err := st.step("local run runsc", func() error { return startOn(cores, cmd) }); err != nil {
		return fmt.Errorf("start %s: %w: %w", t.runsc, errors.Join(err, boot.Close()), provisioner.ErrUnavailable)
	}
	if err := st.step("local await runsc", cmd.Wait); err != nil {
		said := readBootLog(boot)
		boot.Close()
		if ctx.Err() != nil {
			return fmt.Errorf("start machine: %w", context.Cause(ctx))
		}
		return startError(t, err, said)
	}
	st.boots.Store(id, boot)
	st.fresh.Store(id, struct{}{})
	return nil
}

// startError says what to do about a runsc that failed.
func startError(t tools, err error, said string) error {
	kind := provisioner.ErrUnavailable
	if strings.Contains(said, unix.ENOSPC.Error()) {
		kind = provisioner.ErrExhausted
	}
	return fmt.Errorf("%s run: %w: %s: %w", filepath.Base(t.runsc), err, said, kind)
}

// startOn starts cmd on that many of our CPUs, chosen at random, where all its
// descendants will stay; 0 is on all.
func startOn(cores int, cmd *exec.Cmd) error {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("get CPU affinity: %w", err)
	}
	if cores <= 0 || cores >= all.Count() {
		return cmd.Start()
	}
	some := pick(all, cores)
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, &some); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("set CPU affinity: %w", err)
	}
	err := cmd.Start()
	if unix.SchedSetaffinity(0, &all) == nil {
		runtime.UnlockOSThread() // else the thread ends with its goroutine
	}
	return err
}

// pick returns n of the CPUs in set.
func pick(set unix.CPUSet, n int) unix.CPUSet {
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	var some unix.CPUSet
	for _, i := range rand.Perm(len(cpus))[:n] {
		some.Set(cpus[i])
	}
	return some
}

// newBootLog returns a file in memory that can't grow: it is the standard
// output of a machine, and whoever is root inside can write to it for ever.
func newBootLog() (*os.File, error) {
	fd, err := unix.MemfdCreate("agentlab-boot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make boot log: %w", err)
	}
	f := os.NewFile(uintptr(fd), "boot log")
	if err := f.Truncate(bootLogSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return nil, errors.Join(fmt.Errorf("seal boot log: %w", err), f.Close())
	}
	return f, nil
}

// readBootLog returns the last lines of what was printed.
func readBootLog(f *os.File) string {
	const tail = 2 << 10
	data, err := io.ReadAll(io.NewSectionReader(f, 0, bootLogSize))
	if err != nil {
		return ""
	}
	data = bytes.TrimSpace(bytes.ReplaceAll(data, []byte{0}, nil))
	if len(data) > tail {
		data = data[len(data)-tail:]
	}
	return strings.ToValidUTF8(string(data), "?")
}

// takeBootLog returns what machine id printed so far, and forgets it.
func (st *state) takeBootLog(id string) string {
	f, ok := st.boots.LoadAndDelete(id)
	if !ok {
		return ""
	}
	boot := f.(*os.File)
	defer boot.Close()
	return readBootLog(boot)
}
