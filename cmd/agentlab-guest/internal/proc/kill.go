package proc

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// rounds bounds the hunt for a group that forks while it is being killed.
const rounds = 16

// SignalName returns the name of sig without SIG: "KILL".
func SignalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}

// SignalNamed returns the signal of that name, without SIG; 0 if there is none.
func SignalNamed(name string) syscall.Signal { return unix.SignalNum("SIG" + name) }

// Kill kills the command's process group, its session, its descendants, and
// what bears its mark: also what left the group, or ignores other signals.
func (p *Proc) Kill() {
	for range rounds {
		victims := p.relatives() // before the first kill cuts the lines of descent
		_ = p.Signal(syscall.SIGKILL)
		for pid := range victims {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(victims) == 0 {
			return
		}
	}
}

// stat is what /proc says of a process.
type stat struct {
	pid, parent, session int
	rss                  int // pages
	zombie               bool
}

// relatives returns the living processes that belong to p.
func (p *Proc) relatives() map[int]bool {
	stats := processes()
	found := map[int]bool{}
	for _, s := range stats {
		if s.session == p.Pid || p.marked(s.pid) {
			found[s.pid] = true
		}
	}
	for grown := true; grown; { // a child may have a lower pid than its parent
		grown = false
		for _, s := range stats {
			if !found[s.pid] && found[s.parent] {
				found[s.pid], grown = true, true
			}
		}
	}
	delete(found, os.Getpid())
	maps.DeleteFunc(found, func(pid int, _ bool) bool { return pid == 1 })
	return found
}

// marked reports whether the environment of pid at its start bore p's mark.
func (p *Proc) marked(pid int) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	return err == nil && bytes.Contains(env, []byte(markName+"="+p.mark))
}

// processes lists the processes that are not zombies.
func processes() []stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	names, err := dir.Readdirnames(-1)
	if errors.Join(err, dir.Close()) != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var out []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := readStat(pid); ok && !s.zombie {
			out = append(out, s)
		}
	}
	return out
}

// readStat parses /proc/PID/stat: "pid (name) state ppid pgrp session ...",
// where the name may have any characters. The resident size is field 24.
func readStat(pid int) (stat, bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, false
	}
	end := bytes.LastIndexByte(text, ')')
	f := strings.Fields(string(text[end+1:]))
	if end < 0 || len(f) < 22 {
		return stat{}, false
	}
	s := stat{pid: pid, zombie: f[0] == "Z" || f[0] == "X"}
	s.parent, _ = strconv.Atoi(f[1])
	s.session, _ = strconv.Atoi(f[3])
	s.rss, _ = strconv.Atoi(f[21])
	return s, true
}

// KillBiggest kills the process with the most resident memory, and marks the
// command it belongs to as killed for memory. It spares process 1 and us.
func (h *Host) KillBiggest() {
	var biggest stat
	for _, s := range processes() {
		if s.pid != 1 && s.pid != os.Getpid() && s.rss > biggest.rss {
			biggest = s
		}
	}
	if biggest.pid == 0 {
		return
	}
	for _, p := range h.reaper.all() {
		if biggest.session == p.Pid || p.marked(biggest.pid) {
			p.oom.Store(true)
		}
	}
	_ = syscall.Kill(biggest.pid, syscall.SIGKILL)
}
