package agentconn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// startWait is how long Start waits at least, to learn whether the command began.
const startWait = 40 * time.Millisecond

// Limits in bytes.
const (
	maxPiece = 4 << 20 // of a log that is fetched at once
	maxClip  = 4 << 20 // that are returned
	maxName  = 200     // of a command's name for people
)

// maxListed is how many processes are listed: a guest keeps 256 that ended.
const maxListed = 4096

// maxTime is the end of the year 9999: JSON knows none later.
const maxTime = 253402300799

// defaultBeginTime is how long a command may take to begin beyond what was to be waited.
const defaultBeginTime = 2 * time.Minute

var processID = regexp.MustCompile(`^p_[1-9][0-9]{0,15}$`)

type processes struct{ *Conn }

// Processes implements guest.Conn.
func (c *Conn) Processes() guest.Processes { return processes{c} }

// known makes a process of what the guest says of it.
func (r record) known() guest.Process {
	name, _ := base64.RawURLEncoding.DecodeString(r["command"]) // only for people
	p := guest.Process{
		ID: r["id"], Command: string(name[:min(len(name), maxName)]), Running: r["ended"] != "1", TimedOut: r["timedout"] == "1",
		Started: time.Unix(min(r.num("started"), maxTime), 0), Stdout: r.num("out"), Stderr: r.num("err"),
		LogPath: spool + "/" + r["id"] + "/log",
	}
	p.Duration = max(r.hundredths("now")-r.hundredths("begun"), 0)
	if !p.Running {
		p.Exit = r.exit()
		p.Duration = r.hundredths("duration")
	}
	return p
}

// Start implements guest.Processes.
func (p processes) Start(ctx context.Context, cmd guest.Cmd, opt guest.StartOptions) (guest.Process, guest.Output, error) {
	if err := ctx.Err(); err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	if len(opt.Stdin) > guest.MaxStdin {
		return guest.Process{}, guest.Output{}, fmt.Errorf("start: %d bytes of input, at most %d are taken", len(opt.Stdin), guest.MaxStdin)
	}
	j := job{
		key: "k_" + newKey(), mode: "keep", cmd: cmd, timeout: opt.Timeout,
		clip: min(max(opt.Max, 0), maxClip), stdin: opt.Stdin, input: "none",
	}
	switch {
	case opt.KeepStdin:
		j.input = "open"
	case len(opt.Stdin) > 0:
		j.input = "once"
	}
	proc, out, err := p.start(ctx, j, opt.Wait)
	if err != nil {
		if ctx.Err() != nil {
			if !errors.Is(err, ctx.Err()) {
				err = ctx.Err()
			}
			p.kill(j.key, false)
		}
		return guest.Process{}, guest.Output{}, fmt.Errorf("start: %w", err)
	}
	p.remember(proc.ID, out.Next)
	return proc, out, nil
}

func (p processes) start(ctx context.Context, j job, wait time.Duration) (guest.Process, guest.Output, error) {
	proc, err := p.supervise(ctx, j)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	until := time.Now().Add(max(wait, startWait))
	s, err := proc.wait(ctx, until)
	if s == nil && err == nil {
		defer proc.abandon()
		return p.going(ctx, j, proc, until)
	}
	if errors.Is(err, errLost) { // its files tell the rest
		return p.going(ctx, j, proc, until)
	}
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	if s.Signal != 0 { // its files tell the rest
		return p.going(ctx, j, proc, until)
	}
	rec, rest, err := answer(s.Out)
	switch {
	case err != nil:
		return guest.Process{}, guest.Output{}, fmt.Errorf("%w: %.200q", err, s.Err)
	case rec["again"] == "1": // another does it
		return p.going(ctx, j, proc, until)
	case rec["ended"] != "1" || !processID.MatchString(rec["id"]):
		return guest.Process{}, guest.Output{}, unreachable(fmt.Errorf("the supervisor failed: %.200q", s.Err))
	}
	if err := p.started(rec, j); err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	known := rec.known()
	out := guest.Output{Next: rec.num("total"), First: rec.num("first")}
	if n := rec.num("outn"); rec["whole"] == "1" && n <= int64(len(rest)) {
		out.Stdout, out.Stderr = clip(rest[:n], known.Stdout, j.clip), clip(rest[n:], known.Stderr, j.clip)
		if known.Stdout+known.Stderr <= int64(j.clip) {
			known.LogPath = "" // all of it is here
		}
		return known, out, nil
	}
	err = p.clips(ctx, j, known, &out)
	return known, out, err
}

// started is nil if the command did start; else nothing is kept of it.
func (p processes) started(rec record, j job) error {
	err := rec.startError(j.cmd)
	if err != nil && processID.MatchString(rec["id"]) {
		p.toss("../"+rec["id"], "../"+j.key, j.key+".begun")
	}
	return err
}

// going describes a process whose supervisor has not told its end, as soon as
// it has begun, and when it has ended or the time is over.
func (p processes) going(ctx context.Context, j job, proc *process, until time.Time) (guest.Process, guest.Output, error) {
	for {
		rec, _, err := p.log(ctx, j.key, 1<<62, 0, slice(until))
		if err != nil && !errors.Is(err, guest.ErrNoProcess) {
			return guest.Process{}, guest.Output{}, err
		}
		if rec["start"] == "" && rec["ended"] != "1" || rec["ended"] != "1" && time.Now().Before(until) {
			if time.Since(until) > p.beginTime {
				return guest.Process{}, guest.Output{}, unreachable(errors.New("the command does not begin"))
			}
			// Looking at it shows whether it was refused.
			if _, err := proc.wait(ctx, time.Now().Add(startWait)); err != nil && !errors.Is(err, errLost) {
				return guest.Process{}, guest.Output{}, err
			}
			continue
		}
		if err := p.started(rec, j); err != nil {
			return guest.Process{}, guest.Output{}, err
		}
		known := rec.known()
		out := guest.Output{Next: rec.num("total"), First: rec.num("first")}
		return known, out, p.clips(ctx, j, known, &out)
	}
}

// clips reads the streams apart, which the guest keeps so while a Start waits.
func (p processes) clips(ctx context.Context, j job, known guest.Process, out *guest.Output) error {
	for name, s := range map[string]struct {
		total int64
		clip  *guest.Clip
	}{"out": {known.Stdout, &out.Stdout}, "err": {known.Stderr, &out.Stderr}} {
		*s.clip = guest.Clip{Total: s.total}
		if s.total == 0 || j.clip == 0 {
			continue
		}
		tail, err := p.download(ctx, spool+"/"+j.key+"/"+name+".0", -1)
		if err != nil {
			return err
		}
		if int64(len(tail)) >= s.total || s.total <= int64(2*j.clip+mebi) {
			*s.clip = clip(tail, s.total, j.clip)
			continue
		}
		head, err := p.download(ctx, spool+"/"+j.key+"/"+name+".head", -1)
		if err != nil {
			return err
		}
		room := j.clip - j.clip/2
		s.clip.Head, s.clip.Tail = head[:min(len(head), j.clip/2)], tail[max(0, len(tail)-room):]
	}
	return nil
}

const mebi = 1 << 20

// clip cuts the middle out of a stream that is longer than limit.
func clip(b []byte, total int64, limit int) guest.Clip {
	total = max(total, int64(len(b)))
	if len(b) <= limit {
		return guest.Clip{Head: b, Total: total}
	}
	return guest.Clip{Head: b[:limit/2], Tail: b[len(b)-(limit-limit/2):], Total: total}
}

func (c *Conn) remember(id string, last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[id] = last
}

// List implements guest.Processes.
func (p processes) List(ctx context.Context) ([]guest.Process, error) {
	out, err := p.do(ctx, "list", nil)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []guest.Process
	for len(out) > 0 {
		var rec record
		if rec, out, err = answer(out); err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		if len(list) == maxListed || !processID.MatchString(rec["id"]) {
			return nil, fmt.Errorf("list processes: %w", unreachable(fmt.Errorf("after %d the guest lists %.100q", len(list), rec["id"])))
		}
		list = append(list, rec.known())
	}
	return list, nil
}
