package pvetest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// maxExecOutput is what qemu-ga keeps of each stream (qga/commands.c
// GUEST_EXEC_MAX_OUTPUT); maxAgentRead is what it reads at once.
const (
	maxExecOutput = 16 << 20
	maxAgentRead  = 48 << 20
)

// runner does what really happens in a guest: processes and files.
type runner struct {
	mu     sync.Mutex
	procs  map[int]*guestProcess
	files  map[int]*os.File
	handle int
}

type guestProcess struct {
	out, err capped
	done     bool
	state    *os.ProcessState
}

// execute does a command if it is one of a runner's.
func (r *runner) execute(name string, a qgaArgs) (out any, mine bool, err error) {
	switch name {
	case "guest-exec":
		out, err = r.exec(a)
	case "guest-exec-status":
		out, err = r.status(a.PID)
	case "guest-file-open":
		out, err = r.open(a.Path, a.Mode)
	case "guest-file-close":
		err = r.withFile(a.Handle, func(f *os.File) error { delete(r.files, a.Handle); return f.Close() })
	case "guest-file-seek":
		err = r.withFile(a.Handle, func(f *os.File) error {
			pos, err := f.Seek(a.Offset, a.Whence)
			out = map[string]any{"position": pos, "eof": false}
			return err
		})
	case "guest-file-flush":
	case "guest-file-read":
		out, err = r.read(a)
	case "guest-file-write":
		out, err = r.write(a)
	default:
		return nil, false, nil
	}
	return out, true, err
}

// exec starts a program; that it can't be is said at once, in typographic
// quotes (glib's g_spawn).
func (r *runner) exec(a qgaArgs) (any, error) {
	cmd := exec.Command(a.Path, a.Arg...) //nolint:gosec,noctx // that is what the agent is for; nothing ends it
	cmd.Env = append(os.Environ(), a.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &guestProcess{}
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	if a.Input != nil {
		data, err := base64.StdEncoding.DecodeString(*a.Input)
		if err != nil {
			return nil, errors.New("Base64 data contains invalid characters")
		}
		cmd.Stdin = bytes.NewReader(data)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("Guest agent command failed, error was 'Failed to execute child process “%s” (%s)'", a.Path, spawnError(err))
	}
	pid := cmd.Process.Pid
	r.mu.Lock()
	r.procs[pid] = p
	r.mu.Unlock()
	go func() {
		_ = cmd.Wait() // the state says how it ended
		r.mu.Lock()
		defer r.mu.Unlock()
		p.done, p.state = true, cmd.ProcessState
	}()
	return map[string]any{"pid": pid}, nil
}

func spawnError(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return "No such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	}
	return err.Error()
}

// status reports an end once and forgets the process.
func (r *runner) status(pid int) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.procs[pid]
	if p == nil {
		return nil, errors.New("Invalid parameter 'pid'") //nolint:staticcheck // qemu-ga's words
	}
	if !p.done {
		return map[string]any{"exited": false}, nil
	}
	delete(r.procs, pid)
	out := map[string]any{"exited": true}
	if ws, ok := p.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out["signal"] = int(ws.Signal())
	} else {
		out["exitcode"] = p.state.ExitCode()
	}
	p.out.into(out, "out")
	p.err.into(out, "err")
	return out, nil
}

// capped keeps the first maxExecOutput bytes of a stream.
type capped struct {
	buf       bytes.Buffer
	truncated bool
}

func (c *capped) Write(p []byte) (int, error) {
	room := maxExecOutput - c.buf.Len()
	if len(p) > room {
		c.truncated = true
		c.buf.Write(p[:room])
		return len(p), nil
	}
	return c.buf.Write(p)
}

func (c *capped) into(out map[string]any, name string) {
	if c.buf.Len() > 0 {
		out[name+"-data"] = base64.StdEncoding.EncodeToString(c.buf.Bytes())
		if c.truncated {
			out[name+"-truncated"] = true
		}
	}
}

var openModes = map[string]int{
	"r": os.O_RDONLY, "rb": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREATE | os.O_TRUNC, "wb": os.O_WRONLY | os.O_CREATE | os.O_TRUNC,
	"a": os.O_WRONLY | os.O_CREATE | os.O_APPEND, "ab": os.O_WRONLY | os.O_CREATE | os.O_APPEND, "r+": os.O_RDWR, "w+": os.O_RDWR | os.O_CREATE | os.O_TRUNC,
}

// open makes new files with the mode 0666 (measured).
func (r *runner) open(path, mode string) (any, error) {
	if mode == "" {
		mode = "r"
	}
	flags, ok := openModes[mode]
	if !ok {
		return nil, fmt.Errorf("invalid file open mode '%s'", mode)
	}
	_, err := os.Lstat(path)
	f, openErr := os.OpenFile(path, flags|syscall.O_NONBLOCK, 0o666) //nolint:gosec // the guest's file
	if openErr != nil {
		return nil, fmt.Errorf("failed to open file '%s' (mode: '%s'): %s", path, mode, hostError(openErr))
	}
	if err != nil {
		_ = f.Chmod(0o666)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle++
	r.files[1000+r.handle] = f
	return 1000 + r.handle, nil
}

func (r *runner) withFile(handle int, do func(*os.File) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.files[handle]
	if f == nil {
		return fmt.Errorf("handle '%d' has not been found", handle)
	}
	return do(f)
}

func (r *runner) read(a qgaArgs) (out any, err error) {
	count := 4 << 10
	if a.Count != nil {
		count = *a.Count
	}
	if count < 0 || count > maxAgentRead {
		return nil, fmt.Errorf("value '%d' is invalid for argument count", count)
	}
	err = r.withFile(a.Handle, func(f *os.File) error {
		buf := make([]byte, count)
		n, rerr := io.ReadFull(f, buf)
		eof := errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF)
		if rerr != nil && !eof {
			return fmt.Errorf("failed to read file: %s", hostError(rerr))
		}
		out = map[string]any{"count": n, "buf-b64": base64.StdEncoding.EncodeToString(buf[:n]), "eof": eof}
		return nil
	})
	return out, err
}

func (r *runner) write(a qgaArgs) (out any, err error) {
	data, err := base64.StdEncoding.DecodeString(a.Buf)
	if err != nil {
		return nil, errors.New("Base64 data contains invalid characters")
	}
	err = r.withFile(a.Handle, func(f *os.File) error {
		n, werr := f.Write(data)
		if werr != nil {
			return fmt.Errorf("failed to write to file: %s", hostError(werr))
		}
		out = map[string]any{"count": n, "eof": false}
		return nil
	})
	return out, err
}
