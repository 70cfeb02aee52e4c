package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// process is one that has the script's directory in its arguments or its
// environment: the daemon, a bridge, the host's half of a sandbox.
type process struct {
	pid, parent int
	args        string
}

// patience of the tests with what the program must do by itself.
const testPatience = time.Minute

func processes(work string) []process {
	var all []process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !bytes.Contains(append(args, env...), []byte(work+"/")) {
			continue
		}
		stat, _ := os.ReadFile(dir + "/stat") // "1 (name) S 0 ...", the fourth is the parent
		var parent int
		if _, after, ok := bytes.Cut(stat, []byte(") ")); ok {
			_, _ = fmt.Sscanf(string(after[1:]), "%d", &parent)
		}
		all = append(all, process{pid, parent, string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))})
	}
	return all
}

// named returns the processes whose arguments match. A child of such a process
// is not counted: it has its parent's arguments until it executes a program.
func named(work, pattern string) []process {
	args := regexp.MustCompile(pattern)
	match := map[int]process{}
	for _, p := range processes(work) {
		if args.MatchString(p.args) {
			match[p.pid] = p
		}
	}
	var some []process
	for _, p := range match {
		if _, child := match[p.parent]; !child {
			some = append(some, p)
		}
	}
	return some
}

// leftovers says what there still is of an installation whose sandboxes were
// destroyed and whose daemon was told to end.
func leftovers(work string) []string {
	var left []string
	for _, p := range processes(work) {
		left = append(left, fmt.Sprintf("process %d: %s", p.pid, p.args))
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, work+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{
		work + "/state/agentlab/local/machines/*", work + "/state/agentlab/local/runsc/*",
		work + "/run/agentlab/*.sock", "/sys/fs/cgroup/agentlab/sb-*", "/sys/fs/cgroup/*/agentlab/sb-*",
	} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if id, _ := os.ReadFile(work + "/.ID"); strings.HasPrefix(f, work) || filepath.Base(f) == string(id) {
				left = append(left, f)
			}
		}
	}
	return left
}

func killAll(t testing.TB, work string) {
	for _, p := range processes(work) {
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Errorf("kill %v: %v", p, err)
		}
	}
}

// send sends a signal and waits for the end. Signal 0 is only the wait.
func (p process) send(ts *testscript.TestScript, sig unix.Signal) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	ts.Check(err)
	defer unix.Close(fd)
	if sig != 0 {
		ts.Check(unix.PidfdSendSignal(fd, sig, nil, 0))
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(testPatience); time.Now().Before(end); {
		n, err := unix.Poll(ended, int(time.Until(end).Milliseconds()))
		if n > 0 {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			ts.Check(err)
		}
	}
	ts.Fatalf("process %d (%s) does not end", p.pid, p.args)
}

// one returns the one process whose arguments match, waiting until it is there.
func one(ts *testscript.TestScript, pattern string) process {
	for end := time.Now().Add(testPatience); ; time.Sleep(10 * time.Millisecond) {
		some := named(ts.Getenv("WORK"), pattern)
		if len(some) == 1 {
			return some[0]
		}
		if len(some) > 1 || time.Now().After(end) {
			ts.Fatalf("want one process like %s, got %v", pattern, some)
		}
	}
}

const daemonArgs = ` serve( |$)`

// cmdDaemon: "daemon KILL|TERM" ends the daemon, "daemon wait" waits for its end.
func cmdDaemon(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: daemon KILL|TERM|wait")
	}
	one(ts, daemonArgs).send(ts, map[string]unix.Signal{"KILL": unix.SIGKILL, "TERM": unix.SIGTERM, "wait": 0}[args[0]])
}

// cmdDaemons: "daemons N" checks how many daemons there are.
func cmdDaemons(ts *testscript.TestScript, _ bool, args []string) {
	if got := len(named(ts.Getenv("WORK"), daemonArgs)); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%d daemons, want %s", got, args[0])
	}
}

// cmdSlay: "slay PATTERN" kills the one process whose arguments match.
func cmdSlay(ts *testscript.TestScript, _ bool, args []string) {
	one(ts, args[0]).send(ts, unix.SIGKILL)
}

// cmdExits: "exits CODE PROGRAM..." runs a program and checks its exit code.
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// cmdForge: "forge FILE OFFSET BYTE" changes a byte of a file.
func cmdForge(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	at, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	b, err := strconv.ParseUint(args[2], 10, 8)
	ts.Check(err)
	_, err = f.WriteAt([]byte{byte(b)}, at)
	ts.Check(err)
}

// cmdTmpfs: "tmpfs DIR SIZE" mounts a small file system until the script ends.
func cmdTmpfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o711))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711,size="+args[1]))
	ts.Defer(func() { ts.Check(unix.Unmount(dir, unix.MNT_DETACH)) })
}

// cmdFill: "fill FILE" writes into a file until the disk is full.
func cmdFill(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		ts.Fatalf("fill %s: %v", args[0], err)
	}
}

// cmdMode: "mode PATH OCTAL" checks a file's mode.
func cmdMode(ts *testscript.TestScript, _ bool, args []string) {
	paths, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(paths) != 1 {
		ts.Fatalf("%s names %d files", args[0], len(paths))
	}
	info, err := os.Lstat(paths[0])
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("mode of %s is %s, want %s", paths[0], got, args[1])
	}
}

// cmdGone: "gone" waits until no sandbox has anything left on this host or on
// the script's Proxmox.
func cmdGone(ts *testscript.TestScript, _ bool, _ []string) {
	if sim := simOf(ts); sim != nil {
		awaitUnchanged(ts, sim)
	}
	machines := ts.Getenv("WORK") + "/state/agentlab/local/machines"
	for end := time.Now().Add(testPatience); ; time.Sleep(20 * time.Millisecond) {
		entries, err := os.ReadDir(machines)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		left := named(ts.Getenv("WORK"), "runsc")
		if len(entries)+len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still there: %v %v", entries, left)
		}
	}
}

// cmdOpensocket: "opensocket" lets everybody connect to the daemon's socket.
func cmdOpensocket(ts *testscript.TestScript, _ bool, _ []string) {
	paths, err := filepath.Glob(ts.MkAbs("run/agentlab/*.sock"))
	ts.Check(err)
	if len(paths) != 1 {
		ts.Fatalf("sockets: %v", paths)
	}
	ts.Check(os.Chmod(paths[0], 0o666))
}

// cmdKillguest: "killguest" kills the first process in the only sandbox.
func cmdKillguest(ts *testscript.TestScript, _ bool, _ []string) {
	id, err := os.ReadFile(ts.MkAbs(".ID"))
	ts.Check(err)
	args := []string{"--root=" + ts.MkAbs("state/agentlab/local/runsc")}
	if os.Geteuid() != 0 {
		args = append(args, "--rootless")
	}
	ts.Check(ts.Exec("runsc", append(args, "kill", string(id), "KILL")...))
}

// cmdPlanted: "planted SOCKET" puts a socket, as soon as somebody listens on
// it, where the daemon's was: the last name that the log tells.
func cmdPlanted(ts *testscript.TestScript, _ bool, args []string) {
	log, err := os.ReadFile(ts.MkAbs("state/agentlab/agentlab.log"))
	ts.Check(err)
	name := regexp.MustCompile(`agentlab-[0-9a-f]+\.sock`).Find(log)
	for end := time.Now().Add(testPatience); ; time.Sleep(10 * time.Millisecond) {
		info, err := os.Lstat(ts.MkAbs(args[0]))
		if err == nil && info.Mode().Perm() == 0o666 {
			break
		}
		if time.Now().After(end) {
			ts.Fatalf("nobody listens on %s: %v", args[0], err)
		}
	}
	planted := ts.MkAbs("run/agentlab/" + string(name))
	ts.Check(os.Rename(ts.MkAbs(args[0]), planted))
	ts.Defer(func() { ts.Check(os.Remove(planted)) })
	ts.Check(os.Chmod(ts.MkAbs("run/agentlab"), 0o700))
}

// cmdGet: "get PATH" gets it from where the daemon, as its log says last, is
// watched, and prints what it answers.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	log, err := os.ReadFile(ts.MkAbs("state/agentlab/agentlab.log"))
	ts.Check(err)
	all := regexp.MustCompile(`metrics=(http://[^/]+)/metrics`).FindAllSubmatch(log, -1)
	if len(all) == 0 {
		ts.Fatalf("nobody can watch:\n%s", log)
	}
	res, err := http.Get(string(all[len(all)-1][1]) + args[0])
	if (err != nil) != neg {
		ts.Fatalf("get %s: %v", args[0], err)
	}
	if err != nil {
		return
	}
	defer res.Body.Close()
	_, err = io.Copy(ts.Stdout(), res.Body)
	ts.Check(err)
}
