package proc

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// reaper waits for every child of this process: the commands, and, as process
// 1, the orphans. It looks at a zombie before it takes it, so that a pid is
// never free while it still stands in procs.
type reaper struct {
	forking sync.RWMutex  // held for reading from a fork until its pid is in procs
	born    chan struct{} // has room for one: there is a child again
	mu      sync.Mutex
	procs   map[int]*Proc
}

// start forks and enters the child in procs.
func (r *reaper) start(p *Proc, fork func() (int, error)) error {
	r.forking.RLock()
	defer r.forking.RUnlock()
	pid, err := fork()
	if err != nil {
		return err
	}
	p.Pid = pid
	r.mu.Lock()
	r.procs[pid] = p
	r.mu.Unlock()
	select {
	case r.born <- struct{}{}:
	default:
	}
	return nil
}

func (r *reaper) loop() {
	for {
		pid, err := peek()
		if err != nil { // no child at all
			<-r.born
			continue
		}
		if r.reap(pid) {
			continue
		}
		// An orphan, or a child that ended before its pid was entered: once no
		// fork is under way, it must be an orphan.
		r.forking.Lock()
		if !r.reap(pid) {
			_, _ = wait(pid)
		}
		r.forking.Unlock()
	}
}

// reap takes the zombie pid if it is one of procs.
func (r *reaper) reap(pid int) bool {
	r.mu.Lock()
	p := r.procs[pid]
	if p == nil {
		r.mu.Unlock()
		return false
	}
	p.status, _ = wait(pid)
	p.reaped = true
	delete(r.procs, pid)
	r.mu.Unlock()
	end := time.Now().Add(grace)
	for _, f := range []*os.File{p.Stdout, p.Stderr} {
		if f != nil && (p.TTY || !hungUp(f)) { // a terminal may be opened again
			_ = f.SetReadDeadline(end) // fails if the stream has ended and is closed
		}
	}
	close(p.done)
	return true
}

// hungUp reports whether nobody holds the far end of f, so that it will come to
// its end by itself. It spares most commands two timers, which wake a thread.
func hungUp(f *os.File) (yes bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) { // fails if it is closed
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		yes = err == nil && n == 1 && fds[0].Revents&unix.POLLHUP != 0
	})
	return yes
}

// all returns the commands that run.
func (r *reaper) all() []*Proc {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Proc, 0, len(r.procs))
	for _, p := range r.procs {
		out = append(out, p)
	}
	return out
}

// Idle reports whether all has ended that was started here, and all that it has
// left behind: what has lost its parent is a child of ours.
func Idle() bool {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			return errors.Is(err, syscall.ECHILD)
		}
	}
}

// peek waits until some child is a zombie and returns its pid.
func peek() (int, error) {
	var info struct {
		unix.Siginfo
	}
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info.Siginfo, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			// siginfo_t of SIGCHLD on 64 bits: signo, errno, code, padding, pid.
			return int((*[5]int32)(unsafe.Pointer(&info.Siginfo))[4]), nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return 0, err
		}
	}
}

func wait(pid int) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			return status, err
		}
	}
}

// Signal sends sig to the process group of the command.
//
// Errors: guest.ErrExited.
func (p *Proc) Signal(sig syscall.Signal) error {
	r := &p.host.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.reaped {
		return guest.ErrExited
	}
	if err := syscall.Kill(-p.Pid, sig); err != nil {
		return fmt.Errorf("signal process group %d: %w", p.Pid, err)
	}
	return nil
}
