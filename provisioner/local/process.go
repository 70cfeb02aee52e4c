package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// process is one of gVisor's on the host that serves a machine.
type process struct {
	pid    int
	sentry bool // the sandbox itself
	starts bool // runsc starting it; if neither, the file server
}

// processes returns gVisor's processes of each machine below dir, found by the
// bundle that each names in its arguments. Only our own user's, or the one
// that root's machines run as, count: another could name what it likes.
func (st *state) processes() (map[string][]process, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	found := make(map[string][]process)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		id, p, err := st.process(pid)
		if err != nil {
			return nil, fmt.Errorf("look for processes: %w", err)
		}
		if id != "" {
			found[id] = append(found[id], p)
		}
	}
	return found, nil
}

// process says which machine pid serves; id is empty if none. What can't be read
// may serve any: whoever took it for none would leave it behind.
func (st *state) process(pid int) (id string, p process, err error) {
	cmdline, err := st.arguments(pid)
	if errors.Is(err, os.ErrPermission) {
		return "", process{}, nil // another's: see hidepid in proc(5)
	}
	if err != nil {
		return "", process{}, ignoreGone(err)
	}
	// Both ways to give an option a value occur: the file server starts with the one and goes on with the other.
	text := strings.ReplaceAll(string(cmdline), "--bundle\x00", "--bundle=")
	if !strings.Contains(text, "--bundle="+st.machinesDir()+"/") {
		return "", process{}, nil
	}
	args := strings.Split(text, "\x00")
	for _, arg := range args {
		if rest, has := strings.CutPrefix(arg, "--bundle="+st.machinesDir()+"/"); has && provisioner.ValidID(rest) {
			id = rest
		}
	}
	if id == "" {
		return "", process{}, nil
	}
	if ours, err := st.mayBeOurs(pid); !ours {
		return "", process{}, ignoreGone(err)
	}
	p = process{pid: pid, sentry: args[0] == "runsc-sandbox"}
	p.starts = !p.sentry && args[0] != "runsc-gofer"
	return id, p, nil
}

// arguments returns the command line of pid. In the middle of an execve, of
// which runsc's processes make several, a process has none: if it may be ours,
// it is looked at again until that is over.
func (st *state) arguments(pid int) (cmdline []byte, err error) {
	var last life
	for range 1000 {
		cmdline, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(cmdline) > 0 {
			break
		}
		now := lifeOf(pid)
		if now.kernel || now == last && (now.dead || now.end != "0") {
			break
		}
		if now.dead || now.end == "0" {
			if ours, err := st.mayBeOurs(pid); !ours {
				return nil, err
			}
			time.Sleep(time.Millisecond)
		}
		last = now
	}
	return cmdline, err
}

// life says why a process has no arguments. A single look may be deceived: in
// an execve one thread takes the place of another, which looks dead, and the
// arguments may have come between two readings.
type life struct {
	kernel bool   // it is a thread of the kernel
	dead   bool   // or gone
	end    string // address: 0 in an execve, not 0 if it has let go of its arguments, as gVisor's stubs do
}

// lifeOf reads the stat of pid: see proc_pid_stat(5).
func lifeOf(pid int) life {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third on
	if err != nil || len(fields) < 49 {
		return life{dead: true, end: "0"}
	}
	const kernelThread = 0x0020_0000 // PF_KTHREAD
	state, flags, threads, envEnd := fields[0], fields[6], fields[17], fields[48]
	n, _ := strconv.Atoi(flags)
	return life{
		kernel: n&kernelThread != 0,
		// With more threads than one the first may be dead, and another in an execve.
		dead: (state == "Z" || state == "X") && (threads == "0" || threads == "1"),
		end:  envEnd,
	}
}

// mayBeOurs says whether pid runs as a user that our machines run as.
func (st *state) mayBeOurs(pid int) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(status), "\nUid:")
	fields := strings.Fields(rest)
	if len(fields) < 4 {
		return false, nil
	}
	uid, err := strconv.Atoi(fields[0])
	return uid == st.uid || st.uid == 0 && uid == nobody, err
}

// running says whether machine id is alive and was started to the end.
// Errors: ErrUnavailable, if that can't be read now.
func (st *state) running(id string) (bool, error) {
	pid, err := st.sandbox(id)
	return pid != 0, err
}

// sandbox returns the process of machine id if it is alive and was started to
// the end, 0 if not: runsc may have been killed between making its sandbox and
// starting it. The number of the process is runsc's word; that it is this
// machine's, its own. Errors: ErrUnavailable.
func (st *state) sandbox(id string) (pid int, err error) {
	s, err := st.says(id)
	if err != nil || s.Status != statusRunning && s.Status != statusPaused {
		return 0, err
	}
	got, proc, err := st.process(s.Sandbox.Pid)
	if err != nil || got != id || !proc.sentry {
		return 0, unread(id, err)
	}
	return s.Sandbox.Pid, nil
}

// unread makes err, unless it is nil, that of a machine which can't be read now.
func unread(id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read machine %s: %w: %w", id, err, provisioner.ErrUnavailable)
}

func (st *state) runscState(id, ext string) string {
	return filepath.Join(st.runscDir(), id+"_sandbox:"+id+"."+ext)
}

// teardown kills all that serves machine id and removes all that belongs to
// it. The directory, which has the papers, goes last and at once.
func (st *state) teardown(ctx context.Context, id string) error {
	st.takeBootLog(id)
	st.fresh.Delete(id)
	if err := st.step("local kill", func() error { return st.killAll(ctx, id) }); err != nil {
		return err
	}
	errs := []error{
		st.step("local remove cgroups", func() error { return st.removeCgroups(ctx, id) }),
		st.step("local remove runsc state", func() error { return st.removeRunscState(id) }),
	}
	if err := errors.Join(errs...); err != nil {
		return err // the papers stay, for the next try
	}
	doomed := filepath.Join(st.machinesDir(), tempPrefix+id+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := st.step("local unname bundle", func() error { return os.Rename(st.machineDir(id), doomed) }); err != nil {
		return ignoreGone(err)
	}
	return st.step("local remove bundle", func() error { return removeTree(doomed) })
}

// removeRunscState removes what runsc keeps of machine id.
func (st *state) removeRunscState(id string) error {
	var errs []error
	for _, path := range []string{
		st.runscState(id, "state"), st.runscState(id, "lock"), filepath.Join(st.runscDir(), "runsc-"+id+".sock"),
	} {
		errs = append(errs, ignoreGone(os.Remove(path)))
	}
	return errors.Join(errs...)
}

// killAll kills the processes of machine id until there are none: runsc may
// be starting some meanwhile.
func (st *state) killAll(ctx context.Context, id string) error {
	for {
		procs, err := st.processes()
		if err != nil {
			return err
		}
		if len(procs[id]) == 0 {
			return nil
		}
		for _, p := range procs[id] {
			if err := st.kill(ctx, id, p.pid); err != nil {
				return fmt.Errorf("kill process %d of the machine: %w", p.pid, err)
			}
		}
	}
}

// kill kills pid and waits for its end, if it still serves machine id once we
// hold on to it: the number may have become another's.
func (st *state) kill(ctx context.Context, id string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return ignoreGone(err)
	}
	defer unix.Close(fd)
	if got, _, err := st.process(pid); err != nil || got != id {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return ignoreGone(err)
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
	return context.Cause(ctx)
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
