package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// typistMain is the command typist of the scripts: "typist COLUMNS PROGRAM..." runs
// a program in a terminal and does what the lines of standard input say. Of one, await
// waits until a text was seen since the last one, type types one, resize sets the
// columns, signal sends TERM, and killdaemon kills the daemon. Texts are as in Go. At the end it prints what was
// seen, and whether the terminal is as the program found it.
func typistMain() {
	cols, err := strconv.ParseUint(os.Args[1], 10, 16)
	exitOn(err)
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: uint16(cols)})
	exitOn(err)
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	exitOn(err)
	t := typist{f: f, cmd: cmd, seen: make(chan []byte)}
	go t.watch()
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		t.obey(orders.Text())
	}
	for t.more(time.Minute) {
	}
	fmt.Print(strings.ReplaceAll(string(t.all), "\r\n", "\n"))
	after, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	exitOn(err)
	fmt.Printf("\nrestored: %v\n", *before == *after)
	exitAs(cmd.Wait())
}

type typist struct {
	f    *os.File
	cmd  *exec.Cmd
	seen chan []byte // closed at the end
	all  []byte
	from int // of what was awaited
}

// watch reads what is seen until the terminal ends.
func (t *typist) watch() {
	defer close(t.seen)
	for part := make([]byte, 4096); ; {
		n, err := t.f.Read(part)
		if n > 0 {
			t.seen <- bytes.Clone(part[:n])
		}
		if err != nil {
			return
		}
	}
}

// more waits for more to be seen, and says false at the end.
func (t *typist) more(limit time.Duration) bool {
	select {
	case part, ok := <-t.seen:
		t.all = append(t.all, part...)
		return ok
	case <-time.After(limit):
		_ = t.cmd.Process.Kill()
		exitOn(fmt.Errorf("nothing more is seen after %q", t.all))
		return false
	}
}

func (t *typist) obey(order string) {
	verb, rest, _ := strings.Cut(order, " ")
	switch verb {
	case "await":
		text, err := strconv.Unquote(rest)
		exitOn(err)
		for !bytes.Contains(t.all[t.from:], []byte(text)) {
			if !t.more(time.Minute) {
				exitOn(fmt.Errorf("%q is not seen in %q", text, t.all))
			}
		}
		t.from += bytes.Index(t.all[t.from:], []byte(text)) + len(text)
	case "type":
		text, err := strconv.Unquote(rest)
		exitOn(err)
		_, err = t.f.WriteString(text)
		exitOn(err)
	case "resize":
		cols, err := strconv.ParseUint(rest, 10, 16)
		exitOn(err)
		exitOn(pty.Setsize(t.f, &pty.Winsize{Rows: 24, Cols: uint16(cols)}))
	case "killdaemon":
		for _, p := range named(os.Getenv("WORK"), daemonArgs) {
			exitOn(unix.Kill(p.pid, unix.SIGKILL))
		}
	case "signal":
		exitOn(t.cmd.Process.Signal(syscall.SIGTERM))
	default:
		exitOn(fmt.Errorf("no such order: %q", order))
	}
}
