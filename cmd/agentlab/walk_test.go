package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// refusesUsage gives a command arguments that it must refuse.
func refusesUsage(t *testing.T, c command, given []string, want string) {
	var out, errs bytes.Buffer
	code := run(append(strings.Fields(c.name), given...), &out, &errs)
	if code != exitUsage || out.Len() > 0 {
		t.Errorf("exit code %d, want %d; stdout %q", code, exitUsage, out.String())
	}
	for _, text := range []string{want, "usage: " + c.cmd.CommandPath(), "--help says more"} {
		if !strings.Contains(errs.String(), text) {
			t.Errorf("stderr lacks %q:\n%s", text, errs.String())
		}
	}
}

// walker tries each command that does something in one way.
type walker struct {
	ts       *testscript.TestScript
	problems []string
}

// cmdWalk: "walk WAY" tries each command of the program in one way, in the script's
// installation:
//
//	alone        where no daemon runs and none may be started
//	narrow       in a terminal of 60 columns
//	piped        with an output that nobody reads
//	unwritten    with an output that takes nothing, as a file on a full disk
//	full         with a state directory on a full disk
//	interrupted  half-way
//	twice        half-way, and once more, where the first is not heard
func cmdWalk(ts *testscript.TestScript, _ bool, args []string) {
	w := &walker{ts: ts}
	ways := map[string]func(command){"alone": w.alone, "narrow": w.narrow, "piped": w.piped, "unwritten": w.unwritten, "full": w.full, "interrupted": w.interrupted, "twice": w.twice}
	for _, c := range doing(ts.Fatalf) {
		ways[args[0]](c)
	}
	if len(w.problems) > 0 {
		ts.Fatalf("%s", strings.Join(w.problems, "\n"))
	}
}

func (w *walker) errorf(c command, format string, args ...any) {
	w.problems = append(w.problems, "agentlab "+c.name+": "+fmt.Sprintf(format, args...))
}

// patience with a command that has all it needs.
const walkPatience = time.Minute

// command makes one that is ready to be run in the script's installation.
func (w *walker) command(c command, args string) *exec.Cmd {
	path, err := exec.LookPath("agentlab")
	w.ts.Check(err)
	var words []string
	for _, word := range append(strings.Fields(c.name), strings.Fields(args)...) {
		words = append(words, os.Expand(word, w.value))
	}
	cmd := exec.Command(path, words...)
	cmd.Dir = w.ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "WORK", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "GORACE", starterEnv, "AGENTLAB_FAILPOINTS"} {
		cmd.Env = append(cmd.Env, name+"="+w.ts.Getenv(name))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd
}

// value of a variable of the table.
func (w *walker) value(name string) string {
	switch name {
	case "N":
		return strings.ToLower(rand.Text()[:10])
	case "BOX":
		return "box"
	case "DOOMED":
		return "doomed"
	}
	return w.ts.Getenv(name)
}

// ended is how a command has ended.
type ended struct {
	code        int // that of a shell: 128 and the signal's number
	out, errOut string
}

// await waits for a command. One that hangs says where.
func (w *walker) await(c command, cmd *exec.Cmd) int {
	hangs := time.AfterFunc(walkPatience, func() {
		w.errorf(c, "it hangs")
		_ = cmd.Process.Signal(syscall.SIGQUIT)
	})
	defer hangs.Stop()
	err := cmd.Wait()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case !failed:
		w.ts.Check(err)
		return 0
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	return exit.ExitCode()
}

// run runs a command with its output to a file, or if that is nil to us.
func (w *walker) run(c command, stdout *os.File) ended {
	if c.name == "sandbox destroy" {
		w.make("doomed")
	}
	cmd := w.command(c, c.args)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdout != nil {
		cmd.Stdout = stdout
	}
	w.ts.Check(cmd.Start())
	code := w.await(c, cmd)
	for _, trace := range []string{"panic:", "goroutine ", "DATA RACE"} {
		if strings.Contains(errs.String(), trace) {
			w.errorf(c, "it crashed: %s", errs.String())
		}
	}
	if code != 0 && errs.Len() == 0 && out.Len() == 0 && code < 128 {
		w.errorf(c, "exit code %d, and not a word", code)
	}
	return ended{code, out.String(), errs.String()}
}

// make makes a sandbox, unless there is one, if that can be.
func (w *walker) make(name string) {
	if w.ts.Getenv(starterEnv) == "" {
		_ = w.command(command{name: "sandbox new"}, "--name "+name).Run() // destroy says what is missing
	}
}

func (w *walker) alone(c command) {
	got := w.run(c, nil)
	if got.code != c.alone {
		w.errorf(c, "exit code %d, want %d: %s", got.code, c.alone, got.errOut)
	}
	if starts := c.half == atDaemon; starts && !strings.Contains(got.errOut, "no daemon runs; start it: systemctl start agentlab") {
		w.errorf(c, "does not say what to do: %s", got.errOut)
	}
}

func (w *walker) narrow(c command) {
	const columns = 60
	if c.name == "sandbox destroy" {
		w.make("doomed")
	}
	cmd := w.command(c, c.args)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: columns})
	w.ts.Check(err)
	defer terminal.Close()
	if c.name == "mcp" { // it reads what is typed
		_, err = terminal.WriteString("\x04")
		w.ts.Check(err)
	}
	seen, err := io.ReadAll(terminal)
	if !errors.Is(err, unix.EIO) { // its end
		w.ts.Check(err)
	}
	if code := w.await(c, cmd); code != c.code {
		w.errorf(c, "exit code %d, want %d: %s", code, c.code, seen)
	}
	wide := false
	for line := range strings.FieldsFuncSeq(string(seen), func(r rune) bool { return r == '\r' || r == '\n' }) {
		wide = wide || utf8.RuneCountInString(line) > columns
	}
	if wide && c.wide == "" {
		w.errorf(c, "wider than the terminal:\n%s", seen)
	}
}

// piped closes the pipe before the command starts, as head does after its first line.
func (w *walker) piped(c command) {
	r, out, err := os.Pipe()
	w.ts.Check(err)
	w.ts.Check(r.Close())
	defer out.Close()
	got := w.run(c, out)
	if c.told != "" && strings.Contains(got.errOut, c.told) {
		return
	}
	if got.code != c.code && got.code != 128+int(syscall.SIGPIPE) {
		w.errorf(c, "exit code %d: %s", got.code, got.errOut)
	}
	if strings.Contains(got.errOut, "broken pipe") {
		w.errorf(c, "is not quiet: %s", got.errOut)
	}
}

func (w *walker) unwritten(c command) {
	said := w.run(c, nil)
	if said.code != c.code {
		w.errorf(c, "exit code %d, want %d: %s", said.code, c.code, said.errOut)
	}
	if said.out == "" || c.name == "help" { // which the library prints, and does not look
		return
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	w.ts.Check(err)
	defer full.Close()
	if got := w.run(c, full); got.code == 0 || !strings.Contains(got.errOut, "no space left on device") {
		w.errorf(c, "exit code %d: %s", got.code, got.errOut)
	}
}

func (w *walker) full(c command) {
	got := w.run(c, nil)
	known := regexp.MustCompile(`no space left|disk is full|is its disk full`)
	if got.code != c.code && (got.code == 0 || !known.MatchString(got.errOut)) {
		w.errorf(c, "exit code %d: %s%s", got.code, got.out, got.errOut)
	}
	left, err := filepath.Glob(w.ts.MkAbs("state/backup-*"))
	w.ts.Check(err)
	if len(left) > 0 {
		w.errorf(c, "leaves %v", left)
	}
}
