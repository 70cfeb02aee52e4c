package agentconn

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// job is what supervise.sh is to run.
type job struct {
	key, mode string
	cmd       guest.Cmd
	timeout   time.Duration
	clip      int
	stdin     []byte
	input     string // none, once or open
	tty       *guest.TTY
}

// supervise starts a job.
func (c *Conn) supervise(ctx context.Context, j job) (*process, error) {
	p, err := c.superviseOnce(ctx, j)
	if err == nil {
		p.begin = func(ctx context.Context) (*process, error) { return c.superviseOnce(ctx, j) }
	}
	return p, err
}

func (c *Conn) superviseOnce(ctx context.Context, j job) (*process, error) {
	spec, err := words(j.cmd)
	if err != nil {
		return nil, err
	}
	user, err := c.runAs(j.cmd.User)
	if err != nil {
		return nil, err
	}
	tty, term, rows, cols := "", "dumb", "24", "80"
	if j.tty != nil {
		tty, rows, cols = "1", fmt.Sprint(j.tty.Rows), fmt.Sprint(j.tty.Cols)
		if termName.MatchString(j.tty.Term) {
			term = j.tty.Term
		}
	}
	timeout := "0"
	if j.timeout > 0 {
		timeout = fmt.Sprintf("%.3f", j.timeout.Seconds())
	}
	name := j.cmd.Args[len(j.cmd.Args)-1]
	name = base64.RawURLEncoding.EncodeToString([]byte(name[:min(len(name), maxName)]))
	input, form, err := c.payload(ctx, j.key, append(spec, j.stdin...))
	if err != nil {
		return nil, err
	}
	return c.start(ctx, "supervise", input, j.key, j.mode, user, c.cfg.User, timeout, fmt.Sprint(j.clip), j.input, tty,
		fmt.Sprint(len(spec)), form, term, rows, cols, name)
}

// runAs is the user that a command is for; empty is root.
func (c *Conn) runAs(name string) (string, error) {
	switch {
	case name == "":
		return c.cfg.User, nil
	case !userName.MatchString(name):
		return "", fmt.Errorf("%w: %q", guest.ErrNoUser, name)
	case name == "root" && c.cfg.User == "":
		return "", nil
	}
	return name, nil
}

// kill ends a job. With forget nothing of it is left; else it is kept as an
// ended process. What can't be told is killed by its guard in the guest, or
// goes on if it is kept. After a while kill goes on by itself.
func (c *Conn) kill(key string, forget bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
		defer cancel()
		_, _ = c.do(ctx, "kill", nil, key, flag(forget))
	}()
	patience := killPatience
	if c.silence.since(time.Time{}) != nil {
		patience = 0
	}
	select {
	case <-done:
	case <-time.After(patience):
	}
}

// killPatience is how long who cancels waits for the end of the command.
const killPatience = 5 * time.Second

var signalNames = map[int64]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1",
	11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 24: "XCPU", 25: "XFSZ", 31: "SYS",
}

// exit is how a command ended, by its record.
func (r record) exit() guest.Exit {
	e := guest.Exit{Code: int(r.num("code") & 0xff), OOM: r["oom"] == "1"}
	if sig := r.num("sig"); sig > 0 {
		if e.Signal = signalNames[sig]; e.Signal == "" {
			e.Signal = fmt.Sprint(sig)
		}
	}
	return e
}

// startError is why a command did not start; nil if it did.
func (r record) startError(cmd guest.Cmd) error {
	switch r["start"] {
	case "ok":
		return nil
	case "user":
		return fmt.Errorf("%w: %q", guest.ErrNoUser, cmd.User)
	case "denied":
		return fmt.Errorf("run as %q: %w", cmp.Or(cmd.User, "the user of the channel"), fs.ErrPermission)
	case "become":
		return fmt.Errorf("%w: the guest needs setpriv (of util-linux), su or start-stop-daemon", guest.ErrNoBecome)
	case "tty":
		return fmt.Errorf("%w: a terminal needs script (of util-linux) in the guest; run the command without one", guest.ErrNoCommand)
	case "dir":
		return fmt.Errorf("%w: %q", guest.ErrNoDir, cmd.Dir)
	case "command":
		if r["why"] == "" {
			return fmt.Errorf("%w: %q", guest.ErrNoCommand, cmd.Args[0])
		}
		return fmt.Errorf("%w: %q: %s", guest.ErrNoCommand, cmd.Args[0], r["why"])
	}
	return fmt.Errorf("%w: the command could not be started", guest.ErrBusy)
}
