package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// sandboxMain is the command sandbox of the scripts: agentlab sandbox, in whose
// arguments @ is the sandbox that the command mcp was last told of.
func sandboxMain() {
	id, err := os.ReadFile(".ID")
	exitOn(err)
	args := []string{"agentlab", "sandbox"}
	for _, arg := range os.Args[1:] {
		if arg == "@" || strings.HasPrefix(arg, "@:") {
			arg = string(id) + arg[1:]
		}
		args = append(args, arg)
	}
	path, err := exec.LookPath("agentlab")
	exitOn(err)
	exitOn(syscall.Exec(path, args, os.Environ())) // a signal is for it
}

// ttyMain is the command tty of the scripts: "tty COLUMNS PROGRAM..." runs a
// program in a terminal, and prints what is seen there.
func ttyMain() {
	cols, err := strconv.ParseUint(os.Args[1], 10, 16)
	exitOn(err)
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: uint16(cols)})
	exitOn(err)
	seen, err := io.ReadAll(f)
	if !errors.Is(err, unix.EIO) { // its end
		exitOn(err)
	}
	fmt.Print(strings.ReplaceAll(string(seen), "\r\n", "\n"))
	exitAs(cmd.Wait())
}

// uponMain is the command upon of the scripts: "upon N INT|daemon PROGRAM..."
// runs a program and, with each of its first N lines, interrupts it or kills the
// daemon.
func uponMain() {
	count, err := strconv.Atoi(os.Args[1])
	exitOn(err)
	cmd := exec.Command(os.Args[3], os.Args[4:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	exitOn(err)
	exitOn(cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); count-- {
		fmt.Println(lines.Text())
		switch {
		case count <= 0:
		case os.Args[2] == "INT":
			exitOn(cmd.Process.Signal(os.Interrupt))
		default:
			for _, p := range named(os.Getenv("WORK"), daemonArgs) {
				exitOn(unix.Kill(p.pid, unix.SIGKILL))
			}
		}
	}
	exitAs(cmd.Wait())
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// exitAs ends as a program did.
func exitAs(err error) {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	exitOn(err)
}
