package stage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// process is one that has the stage's directory in its arguments or its
// environment: the daemon, a bridge, the host's half of a sandbox.
type process struct {
	PID  int
	Exe  string
	Args string // separated by spaces
}

func (p process) String() string { return fmt.Sprintf("process %d: %.120s", p.PID, p.Args) }

// processes returns those of the stage. One that ends meanwhile is left out.
func (s *Stage) processes() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Another user's process can't be read, and is not ours.
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		mark := []byte(s.Dir + "/")
		if !bytes.Contains(args, mark) && !bytes.Contains(env, mark) {
			continue
		}
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		all = append(all, process{pid, exe, string(bytes.TrimSpace(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))})
	}
	return all, nil
}

// DaemonPID returns the process id of the daemon, 0 if none runs.
func (s *Stage) DaemonPID() (int, error) {
	all, err := s.processes()
	for _, p := range all {
		if p.Exe == s.Bin("agentlab") && strings.Contains(p.Args+" ", " serve ") {
			return p.PID, nil
		}
	}
	return 0, err
}

// Machines names the processes with which the stage's sandboxes are run.
func (s *Stage) Machines() ([]string, error) {
	all, err := s.machines()
	var names []string
	for _, p := range all {
		names = append(names, fmt.Sprintf("process %d: %s", p.PID, p.Args))
	}
	return names, err
}

// MachinesCPU returns what the processes of the stage's sandboxes have used.
func (s *Stage) MachinesCPU() (used time.Duration, err error) {
	all, err := s.machines()
	for _, p := range all {
		proc, perr := procfs.NewProc(p.PID)
		if perr != nil {
			return 0, fmt.Errorf("%s: %w", p, perr)
		}
		stat, serr := proc.Stat()
		if serr != nil {
			return 0, fmt.Errorf("%s: %w", p, serr)
		}
		used += time.Duration(stat.CPUTime() * float64(time.Second))
	}
	return used, err
}

func (s *Stage) machines() (found []process, err error) {
	all, err := s.processes()
	for _, p := range all {
		if strings.Contains(filepath.Base(p.Exe), "runsc") || strings.Contains(p.Args, "runsc") {
			found = append(found, p)
		}
	}
	return found, err
}

// terminate asks the process to end and waits for it.
func (p process) terminate(limit time.Duration) error {
	return p.end(unix.SIGTERM, limit)
}

// left waits for a process that may be about to end, and kills one that is not.
func (p process) left(limit time.Duration) error {
	if p.end(0, limit) == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("left behind: %s", p), p.kill())
}

// end sends a signal, or none if it is 0, and waits until the process has ended.
func (p process) end(signal unix.Signal, limit time.Duration) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", p, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop %s: %w", p, err)
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll(ended, int(time.Until(end).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for %s: %w", p, err)
		case n == 0:
			return fmt.Errorf("%s did not end within %v", p, limit)
		default:
			return nil
		}
	}
}

func (p process) kill() error {
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %s: %w", p, err)
	}
	return nil
}
