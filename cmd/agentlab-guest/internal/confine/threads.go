package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
)

// forkers is how many threads fork. A child inherits the limits of the thread
// that forks it.
const forkers = 4

// job is a fork that some forker is to do.
type job struct {
	path   string
	argv   []string
	attr   *syscall.ProcAttr
	result chan<- result
}

type result struct {
	pid int
	err error
}

// startForkers starts the threads that fork, in the group of the file tasks and
// with the filter of system calls.
func startForkers(tasks string) (proc.Fork, error) {
	jobs := make(chan job)
	ready := make(chan error)
	for range forkers {
		go func() {
			runtime.LockOSThread() // for good: the thread is not as others are
			err := os.WriteFile(tasks, []byte("0"), 0)
			if err == nil {
				err = forbid()
			}
			ready <- err
			if err != nil {
				return
			}
			for j := range jobs {
				pid, err := syscall.ForkExec(j.path, j.argv, j.attr)
				j.result <- result{pid, err}
			}
		}()
	}
	var err error
	for range forkers {
		err = errors.Join(err, <-ready)
	}
	return func(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
		done := make(chan result, 1)
		jobs <- job{path, argv, attr, done}
		r := <-done
		return r.pid, r.err
	}, err
}

// forbid gives the calling thread, and all it forks, a filter that refuses to
// mount anything, also in a user namespace of its own, and to signal process 1:
// gVisor would let it be stopped and killed as any other.
func forbid() error {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ret  = unix.BPF_RET | unix.BPF_K
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		x32  = 0x40000000 // from here on numbers are those of another ABI

		arch, number, argument = 4, 0, 16 // where they are; of the first argument, the low word
	)
	mounts := []uint32{unix.SYS_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT}
	signals := []uint32{unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_TGKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO}
	var filter []unix.SockFilter
	add := func(code uint16, k uint32) { filter = append(filter, unix.SockFilter{Code: code, K: k}) }
	to := func(i int) uint8 { return uint8(i - len(filter)) } // from what was just added
	whom := 4 + len(mounts) + len(signals) + 1
	refuse := whom + 3

	add(load, arch)
	add(jeq, auditArch)
	filter[1].Jf = to(refuse)
	add(load, number)
	add(jge, x32)
	filter[3].Jt = to(refuse)
	for _, call := range mounts {
		add(jeq, call)
		filter[len(filter)-1].Jt = to(refuse)
	}
	for _, call := range signals {
		add(jeq, call)
		filter[len(filter)-1].Jt = to(whom)
	}
	add(ret, unix.SECCOMP_RET_ALLOW)
	add(load, argument)
	add(jeq, 1)
	filter[len(filter)-1].Jt = to(refuse)
	add(ret, unix.SECCOMP_RET_ALLOW)
	add(ret, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}
