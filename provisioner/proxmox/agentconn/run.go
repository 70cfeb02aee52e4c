package agentconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	// pullWait is how long a script in the guest waits for output, in hundredths
	// of a second.
	pullWait = 2000
	// beatTime is how long we pull nothing before we tell the command's guard,
	// which waits for a minute, that we are still there.
	beatTime = 20 * time.Second
	// maxSegment is more than a script returns of one stream at once.
	maxSegment = 8 << 20
	// inline is what scripts return with their answer, as in sh/lib.sh.
	inline = 32768
)

// Run implements guest.Conn.
func (c *Conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	if err := ctx.Err(); err != nil {
		return guest.Exit{}, err
	}
	if len(cmd.Args) > 0 && cmd.Args[0] == guest.Program { // its input would be read before the guest says so
		return guest.Exit{}, fmt.Errorf("run: %w: %s", guest.ErrNoCommand, guest.Program)
	}
	j := job{key: "r_" + newKey(), mode: "run", cmd: cmd, input: "none", tty: std.TTY}
	if std.Stdin != nil {
		j.input = "open"
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{conn: c, job: j}
	r.out = stream{name: "out", w: std.Stdout}
	r.err = stream{name: "err", w: std.Stderr}
	var err error
	if r.process, err = c.supervise(ctx, j); err == nil {
		if std.Stdin != nil || std.TTY != nil && std.TTY.Resize != nil {
			go c.attend(ctx, cancel, j.key, std)
		}
		var exit guest.Exit
		if exit, err = r.follow(ctx); err == nil {
			return exit, nil
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = cause
	}
	if !r.over && !neverBegan(err) {
		c.kill(j.key, true)
	}
	return guest.Exit{}, fmt.Errorf("run: %w", err)
}

func neverBegan(err error) bool {
	return errors.Is(err, guest.ErrNoCommand) || errors.Is(err, guest.ErrNoUser)
}

// run is a command whose output is being pulled.
type run struct {
	conn     *Conn
	job      job
	process  *process // nil when the agent has forgotten it: its files tell the rest
	out, err stream
	over     bool         // it has ended, and nothing of it is needed any more
	pulled   atomic.Int64 // when we pulled last, in Unix nanoseconds
	gone     int          // how often the guest did not know the command
}

// stream is how far one stream has been pulled.
type stream struct {
	name     string
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

// follow waits for the end and hands on the output meanwhile.
func (r *run) follow(ctx context.Context) (guest.Exit, error) {
	until := time.Now().Add(r.conn.pace.glance())
	for first := true; ; first = false {
		rec, err := r.look(ctx, until)
		if rec == nil && err == nil {
			if first {
				go r.beat(ctx)
			}
			rec, err = r.pull(ctx)
		}
		switch {
		case errors.Is(err, errGone) && r.gone < 10: // it is just starting
			r.gone++
			until = time.Now().Add(lastPause)
			if r.process == nil && !pve.Sleep(ctx, lastPause) {
				return guest.Exit{}, ctx.Err()
			}
		case err != nil:
			return guest.Exit{}, err
		case rec != nil:
			return r.ended(rec)
		}
	}
}

// look waits for the command's supervisor. It returns its record if that tells
// all; else the rest is to be pulled.
func (r *run) look(ctx context.Context, until time.Time) (record, error) {
	if r.process == nil {
		return nil, nil
	}
	s, err := r.process.wait(ctx, until)
	if errors.Is(err, errLost) {
		r.process = nil
		return nil, nil
	}
	if err != nil || s == nil {
		return nil, err
	}
	r.process = nil
	return r.reported(s)
}

// reported takes what the supervisor said, with all the command wrote unless
// that is much.
func (r *run) reported(s *pve.ExecStatus) (record, error) {
	if s.Signal != 0 { // its files tell the rest
		return nil, nil
	}
	rec, rest, err := answer(s.Out)
	n := rec.num("outn")
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %.200q", err, s.Err)
	case rec["again"] == "1": // another does it
		return nil, nil
	case rec["ended"] != "1":
		return nil, unreachable(fmt.Errorf("the supervisor of the command failed: %.200q", s.Err))
	case rec["whole"] != "1" || n < r.out.taken || int64(len(rest))-n < r.err.taken:
		return nil, nil
	}
	return rec, errors.Join(r.out.write(rest[r.out.taken:n]), r.err.write(rest[n+r.err.taken:]))
}

func (r *run) ended(rec record) (guest.Exit, error) {
	r.over = true
	r.conn.toss("../" + r.job.key)
	if r.process != nil {
		r.process.abandon()
	}
	if rec["full"] == "1" {
		return guest.Exit{}, fmt.Errorf("keep the output: %w", guest.ErrNoSpace)
	}
	return rec.exit(), rec.startError(r.job.cmd)
}

// errGone: the guest knows no such command, not yet or not any more.
var errGone = errors.New("the command is gone from the guest")

// pull hands on the next piece of both streams. At the end of both it returns
// how the command ended.
func (r *run) pull(ctx context.Context) (record, error) {
	r.pulled.Store(time.Now().UnixNano())
	file := newKey()
	out, err := r.conn.do(ctx, "pull", nil, r.job.key,
		decimal(r.out.seg), decimal(r.out.off), decimal(r.err.seg), decimal(r.err.off), decimal(pullWait), file)
	if err != nil {
		return nil, err
	}
	rec, rest, err := answer(out)
	switch {
	case err != nil:
		return nil, err
	case rec["gone"] == "1":
		return nil, unreachable(errGone)
	case rec["lost"] == "1":
		return nil, unreachable(errors.New("the command was killed with its supervisor"))
	}
	r.gone = 0
	for _, s := range []*stream{&r.out, &r.err} {
		if rest, err = r.take(ctx, rec, s, file, rest); err != nil {
			return nil, err
		}
	}
	if rec["ended"] == "1" && rec["outlast"] == "1" && rec["errlast"] == "1" {
		return rec, nil
	}
	return nil, nil
}

// take hands on one stream's piece, and returns what was printed after it.
func (r *run) take(ctx context.Context, rec record, s *stream, file string, printed []byte) (rest []byte, err error) {
	p, err := rec.piece(s.name, file+"."+s.name, maxSegment)
	if err != nil {
		return nil, err
	}
	data, rest, err := r.conn.fetch(ctx, p, printed)
	if err != nil {
		return nil, err
	}
	s.seg, s.off = rec.num(s.name+"seg"), rec.num(s.name+"off")+p.n
	return rest, s.write(data)
}

// beat tells the guest that we are there while a stalled writer keeps us from
// pulling.
func (r *run) beat(ctx context.Context) {
	for pve.Sleep(ctx, beatTime) {
		if time.Since(time.Unix(0, r.pulled.Load())) > beatTime {
			_, _ = r.conn.do(ctx, "beat", nil, r.job.key)
		}
	}
}
