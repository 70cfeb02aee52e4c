package agentconn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// glance is how long a command is only looked at before its output is pulled:
// most have ended by then, and all they wrote comes with the end.
const glance = 60 * time.Millisecond

// pullWait is how long a script in the guest waits for output, in hundredths
// of a second.
const pullWait = 1000

// Limits of what the guest may say it has.
const (
	maxSegment = 12 << 20
	maxClip    = 4 << 20
	maxQueue   = 4 << 20 // bytes of input that wait in the guest
)

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
	name = base64.RawURLEncoding.EncodeToString([]byte(name[:min(len(name), 200)]))
	input, pieces, err := c.payload(ctx, j.key, append(spec, j.stdin...))
	if err != nil {
		return nil, err
	}
	return c.start(ctx, "supervise", input, j.key, j.mode, user, timeout, fmt.Sprint(j.clip), j.input, tty,
		fmt.Sprint(len(spec)), flag(pieces), term, rows, cols, name)
}

// Run implements guest.Conn.
func (c *Conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	if err := ctx.Err(); err != nil {
		return guest.Exit{}, err
	}
	j := job{key: "r_" + newKey(), mode: "run", cmd: cmd, input: "none", tty: std.TTY}
	if std.Stdin != nil {
		j.input = "open"
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := c.supervise(ctx, j)
	if err != nil {
		c.giveUp(j.key, err)
		return guest.Exit{}, fmt.Errorf("run: %w", err)
	}
	var order sync.Mutex // of input and changes of size
	if std.Stdin != nil {
		go c.feed(ctx, cancel, j.key, std.Stdin, &order)
	}
	if std.TTY != nil && std.TTY.Resize != nil {
		go c.resize(ctx, j.key, std.TTY.Resize, &order)
	}
	r := &run{conn: c, key: j.key, process: p}
	r.out.w, r.err.w = std.Stdout, std.Stderr
	exit, err := r.follow(ctx, cmd)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil && !r.over {
		c.giveUp(j.key, err)
	}
	return exit, err
}

// giveUp kills a command and forgets it. What can't be told is killed by its
// guard in the guest.
func (c *Conn) giveUp(key string, why error) {
	if errors.Is(why, guest.ErrNoCommand) || errors.Is(why, guest.ErrNoUser) {
		return // it never began
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	_, _ = c.do(ctx, "kill", nil, key, "1")
}

// run is a command whose output is being pulled.
type run struct {
	conn     *Conn
	key      string
	process  *process
	out, err stream
	over     bool // it has ended, and nothing of it is left in the guest
}

// stream is how far one stream has been pulled.
type stream struct {
	w        io.Writer
	seg, off int64
	taken    int64 // in all
}

func (s *stream) write(b []byte) error {
	s.taken += int64(len(b))
	if s.w == nil || len(b) == 0 {
		return nil
	}
	_, err := s.w.Write(b)
	return err
}

// errGone: the guest knows no such command, not yet or not any more.
var errGone = errors.New("the command is gone from the guest")

// follow waits for the end and hands on the output meanwhile.
func (r *run) follow(ctx context.Context, cmd guest.Cmd) (guest.Exit, error) {
	until := time.Now().Add(glance)
	for {
		s, err := r.process.wait(ctx, until)
		if err != nil {
			return guest.Exit{}, err
		}
		if s != nil {
			return r.reported(ctx, cmd, s)
		}
		rec, err := r.pull(ctx)
		switch {
		case errors.Is(err, errGone):
			until = time.Now().Add(lastPause) // its supervisor tells, or is just starting
		case err != nil:
			return guest.Exit{}, err
		case rec != nil:
			r.process.abandon()
			return r.ended(rec, cmd)
		}
	}
}

// reported ends a run with what its supervisor said, which is all it wrote
// unless that is much.
func (r *run) reported(ctx context.Context, cmd guest.Cmd, s *pve.ExecStatus) (guest.Exit, error) {
	rec, rest := answer(s.Out)
	if rec["ended"] != "1" {
		return guest.Exit{}, unreachable(fmt.Errorf("the supervisor failed: %.200q", s.Err))
	}
	if err := rec.startError(cmd); err != nil {
		r.over = true
		r.conn.toss("../" + r.key)
		return guest.Exit{}, err
	}
	if n := rec.num("outn"); rec["whole"] == "1" && n >= r.out.taken && int64(len(rest))-n >= r.err.taken {
		r.over = true
		r.conn.toss("../" + r.key)
		return rec.exit(), errors.Join(r.out.write(rest[r.out.taken:n]), r.err.write(rest[n+r.err.taken:]))
	}
	for {
		if rec, err := r.pull(ctx); err != nil || rec != nil {
			if errors.Is(err, errGone) {
				err = unreachable(err)
			}
			if err != nil {
				return guest.Exit{}, err
			}
			return r.ended(rec, cmd)
		}
	}
}

func (r *run) ended(rec record, cmd guest.Cmd) (guest.Exit, error) {
	r.over = true
	r.conn.toss("../" + r.key)
	return rec.exit(), rec.startError(cmd)
}

// pull hands on the next piece of both streams. At the end of both it returns
// how the command ended.
func (r *run) pull(ctx context.Context) (record, error) {
	out, err := r.conn.do(ctx, "pull", nil, r.key, decimal(r.out.seg), decimal(r.out.off), decimal(r.err.seg), decimal(r.err.off), decimal(pullWait))
	if err != nil {
		return nil, err
	}
	rec, rest := answer(out)
	if rec["start"] == "" && rec["ended"] == "" {
		return nil, errGone
	}
	rest, outEnd, err := r.take(ctx, rec, "out", &r.out, rest)
	if err != nil {
		return nil, err
	}
	_, errEnd, err := r.take(ctx, rec, "err", &r.err, rest)
	if err != nil {
		return nil, err
	}
	if rec["ended"] == "1" && outEnd && errEnd {
		return rec, nil
	}
	return nil, nil
}

// inline is what scripts return with their answer, as in sh/lib.sh.
const inline = 32768

// take hands on one stream's piece, which is in rest if it is little.
func (r *run) take(ctx context.Context, rec record, name string, s *stream, rest []byte) (left []byte, end bool, err error) {
	s.seg, s.off = rec.num(name+"seg"), rec.num(name+"off")
	size := rec.num(name + "size")
	n := size - s.off
	switch {
	case n <= 0:
		return rest, rec[name+"end"] == "1", nil
	case n <= inline:
		if int64(len(rest)) < n {
			return nil, false, unreachable(errors.New("the guest's answer is cut short"))
		}
		err, rest = s.write(rest[:n]), rest[n:]
	case size > maxSegment:
		return nil, false, unreachable(fmt.Errorf("the guest offers %d bytes at once", size))
	default:
		var data []byte
		data, err = r.conn.download(ctx, fmt.Sprintf("%s/%s.%d", r.key, name, s.seg), size)
		if err == nil {
			err = s.write(data[s.off:])
		}
	}
	s.off = size
	return rest, false, err
}

// feed gives a command its input.
func (c *Conn) feed(ctx context.Context, fail context.CancelCauseFunc, key string, r io.Reader, order *sync.Mutex) {
	buf := make([]byte, 8*inputMax)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) {
			fail(err)
			return
		}
		order.Lock()
		taken := c.give(ctx, key, guest.Input{Stdin: buf[:n], CloseStdin: err != nil})
		order.Unlock()
		if !taken || err != nil {
			return
		}
	}
}

// give tries until the command has begun and has room for the input. It
// reports false when the command takes no more; how it ended, follow knows.
func (c *Conn) give(ctx context.Context, key string, in guest.Input) bool {
	pause := 20 * time.Millisecond
	for {
		err := c.control(ctx, key, in, maxQueue)
		if !errors.Is(err, guest.ErrBusy) && !errors.Is(err, guest.ErrNoProcess) {
			return err == nil
		}
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, time.Second)
	}
}

// resize passes changes of the terminal's size on.
func (c *Conn) resize(ctx context.Context, key string, sizes <-chan guest.Size, order *sync.Mutex) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			order.Lock()
			_, _ = c.do(ctx, "resize", nil, key, fmt.Sprint(s.Rows), fmt.Sprint(s.Cols))
			order.Unlock()
		}
	}
}
