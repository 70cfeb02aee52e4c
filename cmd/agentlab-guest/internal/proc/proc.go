// Package proc starts the commands of a guest, waits for them and kills them
// with all they started. It works as process 1 of a sandbox, which inherits
// every orphan, and as an ordinary process of a host.
//
// Nothing but this package may start or wait for a child: one reaper waits for
// all of them, known or orphaned, and would take another's exit status.
package proc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// markName is the variable in the environment of every command by which what
// it started is found, also after that left its session.
const markName = "AGENTLAB_COMMAND"

// grace is how long a command's output may be held open by others after it has
// ended. What is in the pipe by then is read in any case.
const grace = 50 * time.Millisecond

// Fork starts a program as syscall.ForkExec does.
type Fork func(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error)

// Host starts commands on the machine it runs on. Its fields may be changed
// until the first method call.
type Host struct {
	Home string // where the default user starts; empty is /
	Fork Fork   // nil is syscall.ForkExec

	// Rename sets the name of the machine; nil is sethostname(2).
	Rename func(name string) error

	// Started, if it is not nil and has room, gets a value at each start.
	Started chan struct{}

	once     sync.Once
	reaper   reaper
	user     account // who we are
	devNull  *os.File
	nonce    string
	commands atomic.Int64
	startErr error
}

// Cmd is a command and how its streams are wanted.
type Cmd struct {
	guest.Cmd
	Stdin bool   // a pipe; else it is /dev/null
	TTY   bool   // a terminal instead of pipes
	Term  string // the value of TERM with a terminal
	Size  guest.Size
}

// Proc is a running command. Whoever started it reads Stdout and Stderr to
// their end with Copy, and closes Stdin.
type Proc struct {
	Pid            int
	Stdin          *os.File // nil if there is none; with a terminal the same as Stdout
	Stdout, Stderr *os.File // Stderr is nil with a terminal
	TTY            bool

	host          *Host
	mark          string
	done          chan struct{}
	reaped        bool // under reaper.mu: the pid may be another's now
	status        syscall.WaitStatus
	oom, released atomic.Bool
}

func (h *Host) init() {
	h.reaper.procs = map[int]*Proc{}
	h.reaper.born = make(chan struct{}, 1)
	h.user = ourselves(h.Home)
	h.nonce = rand.Text()[:12]
	if h.Fork == nil {
		h.Fork = syscall.ForkExec
	}
	// Orphans come to us even where we are not process 1, so that their
	// ancestry can be followed.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		h.startErr = fmt.Errorf("become the reaper of orphans: %w", err)
		return
	}
	if h.devNull, h.startErr = os.OpenFile(os.DevNull, os.O_RDWR, 0); h.startErr == nil {
		go h.reaper.loop()
	}
}

// Start starts cmd in a session of its own.
//
// Errors: guest.ErrNoDir, guest.ErrNoUser, guest.ErrNoCommand, guest.ErrBusy,
// fs.ErrPermission.
func (h *Host) Start(cmd Cmd) (*Proc, error) {
	h.once.Do(h.init)
	if h.startErr != nil {
		return nil, h.startErr
	}
	l, err := h.prepare(cmd)
	if err != nil {
		return nil, err
	}
	p := &Proc{host: h, mark: l.mark, done: make(chan struct{}), TTY: cmd.TTY}
	child, err := p.open(h, cmd)
	defer func() {
		for _, f := range child {
			if f != h.devNull {
				_ = f.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{Dir: l.dir, Env: l.env, Sys: &syscall.SysProcAttr{
		Setsid: true, Setctty: cmd.TTY, Credential: l.credential,
	}}
	for _, f := range child {
		attr.Files = append(attr.Files, f.Fd())
	}
	if err := h.reaper.start(p, func() (int, error) { return h.Fork(l.path, cmd.Args, attr) }); err != nil {
		p.CloseFiles()
		return nil, forkError(cmd.Args[0], err)
	}
	select {
	case h.Started <- struct{}{}:
	default:
	}
	return p, nil
}

// open makes the pipes or the terminal, and returns the child's three files.
func (p *Proc) open(h *Host, cmd Cmd) (child []*os.File, err error) {
	defer func() {
		if err != nil {
			p.CloseFiles()
			err = fmt.Errorf("open streams of a command: %w (%w)", guest.ErrBusy, err)
		}
	}()
	if cmd.TTY {
		return p.openTTY(cmd.Size)
	}
	child = []*os.File{h.devNull}
	if cmd.Stdin {
		r, w, err := pipe(true)
		if err != nil {
			return nil, err
		}
		child[0], p.Stdin = r, w
	}
	r, w, err := pipe(false)
	if err != nil {
		return child, err
	}
	child, p.Stdout = append(child, w), r
	if r, w, err = pipe(false); err != nil {
		return child, err
	}
	child, p.Stderr = append(child, w), r
	return child, nil
}

func (p *Proc) openTTY(size guest.Size) ([]*os.File, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, err
	}
	if size != (guest.Size{}) {
		err = pty.Setsize(master, &pty.Winsize{Cols: size.Cols, Rows: size.Rows})
	}
	// Only a file that polls can be waited for with a limit.
	dup, dupErr := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, dupErr, master.Close()); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	if err := syscall.SetNonblock(dup, true); err != nil {
		return nil, errors.Join(err, syscall.Close(dup), slave.Close())
	}
	p.Stdout = os.NewFile(uintptr(dup), "tty")
	p.Stdin = p.Stdout
	return []*os.File{slave, slave, slave}, nil
}

// pipe returns a pipe whose one end is ours, with a poller, and whose other end
// is the child's and blocks.
func pipe(writeIsOurs bool) (r, w *os.File, err error) {
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	ours := fd[0]
	if writeIsOurs {
		ours = fd[1]
	}
	if err := syscall.SetNonblock(ours, true); err != nil {
		return nil, nil, errors.Join(err, syscall.Close(fd[0]), syscall.Close(fd[1]))
	}
	return os.NewFile(uintptr(fd[0]), "|0"), os.NewFile(uintptr(fd[1]), "|1"), nil
}

// forkError says what the errno of a fork or an exec means for the caller.
func forkError(name string, err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("start %s: %w (%v)", name, guest.ErrBusy, err)
	case errors.Is(err, fs.ErrNotExist): // of the interpreter: the program itself was found
		return fmt.Errorf("%w: %s: its interpreter is missing", guest.ErrNoCommand, name)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: %s: %v", guest.ErrNoCommand, name, err)
	}
	return fmt.Errorf("start %s: %w", name, err)
}

// Done is closed when the command has ended, not what it left behind.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Exit says how the command ended. It may be called after Done.
func (p *Proc) Exit() guest.Exit {
	e := guest.Exit{Code: p.status.ExitStatus(), OOM: p.oom.Load()}
	if p.status.Signaled() {
		sig := p.status.Signal()
		e.Code, e.Signal = 128+int(sig), SignalName(sig)
	}
	return e
}

// Resize sets the size of the terminal.
func (p *Proc) Resize(s guest.Size) error {
	var err error
	conn, cerr := p.Stdout.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols})
	})
	return errors.Join(cerr, err)
}

// CloseFiles closes our ends of the streams.
func (p *Proc) CloseFiles() {
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			_ = f.Close() // twice for a terminal, which is harmless
		}
	}
}

// Release closes our ends of the streams of a command that has ended and been
// read: what it left behind is on its own.
func (p *Proc) Release() {
	p.released.Store(true)
	p.CloseFiles()
}

// Released reports whether Release was called.
func (p *Proc) Released() bool { return p.released.Load() }
