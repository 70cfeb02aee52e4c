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
				err = forbidMount()
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

// forbidMount gives the calling thread, and all it forks, a filter that refuses
// to mount anything, also in a user namespace of its own.
func forbidMount() error {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ret  = unix.BPF_RET | unix.BPF_K
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		x32  = 0x40000000 // from here on numbers are those of another ABI
	)
	calls := []uint32{unix.SYS_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT}
	n := uint8(len(calls))
	filter := []unix.SockFilter{
		{Code: load, K: 4}, // the architecture
		{Code: jeq, K: auditArch, Jf: n + 3},
		{Code: load, K: 0}, // the number of the call
		{Code: jge, K: x32, Jt: n + 1},
	}
	for i, c := range calls {
		filter = append(filter, unix.SockFilter{Code: jeq, K: c, Jt: n - uint8(i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}

// capset sets the capabilities of all threads.
func capset(header *unix.CapUserHeader, sets *[2]unix.CapUserData) error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(sets)), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(sets)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
