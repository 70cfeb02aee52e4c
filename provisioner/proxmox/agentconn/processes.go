package agentconn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// fetchWait is how long a script in the guest waits for output at most, in
// hundredths of a second.
const fetchWait = 500

// maxPiece is how much of a log is fetched at once.
const maxPiece = 4 << 20

var processID = regexp.MustCompile(`^p_[1-9][0-9]{0,15}$`)

type processes struct{ *Conn }

// Processes implements guest.Conn.
func (c *Conn) Processes() guest.Processes { return processes{c} }

// known makes a process of what the guest says of it.
func (r record) known() guest.Process {
	name, _ := base64.RawURLEncoding.DecodeString(r["command"]) // only for people
	p := guest.Process{
		ID: r["id"], Command: string(name), Running: r["ended"] != "1", TimedOut: r["timedout"] == "1",
		Started: time.Unix(r.num("started"), 0), Stdout: r.num("out"), Stderr: r.num("err"),
		LogPath: spool + "/" + r["id"] + "/log",
	}
	hundredths := max(r.num("now")-r.num("begun"), 0)
	if !p.Running {
		p.Exit = r.exit()
		hundredths = r.num("duration")
	}
	p.Duration = time.Duration(hundredths) * 10 * time.Millisecond
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
			err = ctx.Err()
			p.kill(j.key)
		}
		return guest.Process{}, guest.Output{}, fmt.Errorf("start: %w", err)
	}
	p.remember(proc.ID, out.Next)
	return proc, out, nil
}

// kill ends a process; its record stays.
func (c *Conn) kill(key string) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	_, _ = c.do(ctx, "kill", nil, key, "0")
}

func (p processes) start(ctx context.Context, j job, wait time.Duration) (guest.Process, guest.Output, error) {
	proc, err := p.supervise(ctx, j)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	s, err := proc.wait(ctx, time.Now().Add(max(wait, glance/2)))
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	if s == nil {
		defer proc.abandon()
		return p.going(ctx, j)
	}
	rec, rest := answer(s.Out)
	if rec["ended"] != "1" {
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
		p.toss("../"+rec["id"], "../"+j.key)
	}
	return err
}

// going describes a process that has not ended in the time given.
func (p processes) going(ctx context.Context, j job) (guest.Process, guest.Output, error) {
	for {
		rec, _, err := p.fetch(ctx, j.key, 0, 0, 0)
		if err != nil && !errors.Is(err, guest.ErrNoProcess) {
			return guest.Process{}, guest.Output{}, err
		}
		if rec["start"] == "" {
			if !sleep(ctx, glance/2) {
				return guest.Process{}, guest.Output{}, ctx.Err()
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
		tail, err := p.download(ctx, j.key+"/"+name+".0", -1)
		if err != nil {
			return err
		}
		if int64(len(tail)) >= s.total || s.total <= int64(2*j.clip+mebi) {
			*s.clip = clip(tail, s.total, j.clip)
			continue
		}
		head, err := p.download(ctx, j.key+"/"+name+".head", -1)
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

// fetch asks for a piece of a log; key is a process or the key of its job.
func (c *Conn) fetch(ctx context.Context, key string, off int64, limit int, wait int64) (record, []byte, error) {
	piece := newKey()
	out, err := c.do(ctx, "fetch", nil, key, decimal(off), fmt.Sprint(limit), decimal(wait), piece)
	if err != nil {
		return nil, nil, err
	}
	rec, data := answer(out)
	if rec["none"] == "1" || rec["id"] == "" {
		return rec, nil, guest.ErrNoProcess
	}
	if n := rec.num("n"); n > inline {
		c.toss(piece)
		data, err = c.download(ctx, "tmp/"+piece, min(n, int64(limit)))
	}
	return rec, data, err
}

// Read implements guest.Processes.
func (p processes) Read(ctx context.Context, id string, req guest.ReadRequest) (guest.Process, guest.Output, error) {
	if !processID.MatchString(id) {
		return guest.Process{}, guest.Output{}, fmt.Errorf("%w: %q", guest.ErrNoProcess, id)
	}
	re, err := regexp.Compile(req.Until)
	if err != nil {
		return guest.Process{}, guest.Output{}, fmt.Errorf("until: %w", err)
	}
	off := req.Offset
	if req.FromLast {
		p.mu.Lock()
		off = p.last[id]
		p.mu.Unlock()
	}
	r := reading{processes: p, id: id, max: min(max(req.Max, 0), maxClip), off: off}
	until := time.Now().Add(req.Wait)
	if req.Until == "" {
		err = r.once(ctx, until)
	} else {
		err = r.search(ctx, re, until)
	}
	if err != nil {
		return guest.Process{}, guest.Output{}, fmt.Errorf("read %s: %w", id, err)
	}
	out := guest.Output{
		Both: r.both, Offset: r.begin, Next: r.begin + int64(len(r.both)),
		First: r.rec.num("first"), Matched: r.matched,
	}
	p.remember(id, out.Next)
	return r.rec.known(), out, nil
}

// reading is one Read.
type reading struct {
	processes
	id      string
	max     int
	off     int64
	rec     record
	begin   int64 // where both begins; known with the first answer
	both    []byte
	matched bool
}

// slice is how long the guest is to wait now, in hundredths of a second.
func slice(until time.Time) int64 {
	return min(max(int64(time.Until(until)/(10*time.Millisecond)), 0), fetchWait)
}

func (r *reading) once(ctx context.Context, until time.Time) error {
	for {
		wait := slice(until)
		rec, data, err := r.fetch(ctx, r.id, r.off, r.max, wait)
		if err != nil {
			return err
		}
		r.rec, r.begin, r.both = rec, rec.num("offset"), data
		if wait == 0 || rec["ended"] == "1" || rec.num("total") > r.begin {
			return nil
		}
		r.off = r.begin
	}
}

// maxSpan bounds how long a match may be.
const maxSpan = 64 << 10

// search reads on until the expression matches, keeping what is to be returned.
func (r *reading) search(ctx context.Context, re *regexp.Regexp, until time.Time) error {
	var window []byte
	first := true
	for {
		wait := slice(until)
		rec, data, err := r.fetch(ctx, r.id, r.off, maxPiece, wait)
		if err != nil {
			return err
		}
		at := rec.num("offset")
		if first {
			r.begin, first = at, false
		}
		if at == r.begin+int64(len(r.both)) {
			r.both = append(r.both, data[:min(len(data), r.max-len(r.both))]...)
		}
		r.rec, r.off = rec, at+int64(len(data))
		window = append(window, data...)
		if r.matched = re.Match(window); r.matched {
			return nil
		}
		window = append([]byte(nil), window[max(0, len(window)-maxSpan):]...)
		if r.off >= rec.num("total") && (wait == 0 || rec["ended"] == "1") {
			return nil
		}
	}
}

// Control implements guest.Processes.
func (p processes) Control(ctx context.Context, id string, in guest.Input) (guest.Process, error) {
	fail := func(err error) (guest.Process, error) {
		return guest.Process{}, fmt.Errorf("control %s: %w", id, err)
	}
	if !processID.MatchString(id) {
		return fail(guest.ErrNoProcess)
	}
	switch in.Signal {
	case "", "INT", "TERM", "KILL", "HUP":
	default:
		return fail(fmt.Errorf("unknown signal %q: use INT, TERM, KILL or HUP", in.Signal))
	}
	if len(in.Stdin) > guest.MaxStdin {
		return fail(fmt.Errorf("%d bytes of input, at most %d are taken", len(in.Stdin), guest.MaxStdin))
	}
	if err := p.control(ctx, id, in, guest.MaxStdin); err != nil {
		return fail(err)
	}
	rec, _, err := p.fetch(ctx, id, 0, 0, 0)
	if err != nil {
		return fail(err)
	}
	return rec.known(), nil
}

// control does it; limit is how much input may wait in the guest.
func (c *Conn) control(ctx context.Context, key string, in guest.Input, limit int) error {
	name, pieces := newKey(), "0"
	input, uploaded, err := c.payload(ctx, name, in.Stdin)
	if err != nil {
		return err
	}
	if uploaded {
		pieces = name
	}
	out, err := c.do(ctx, "control", input, key, fmt.Sprint(len(in.Stdin)), pieces, flag(in.CloseStdin), in.Signal, fmt.Sprint(limit))
	if err != nil {
		return err
	}
	rec, _ := answer(out)
	switch rec["result"] {
	case "ok":
		return nil
	case "none":
		return guest.ErrNoProcess
	case "exited":
		return guest.ErrExited
	case "busy":
		return guest.ErrBusy
	}
	return guest.ErrNoSpace
}

// List implements guest.Processes.
func (p processes) List(ctx context.Context) ([]guest.Process, error) {
	out, err := p.do(ctx, "list", nil)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []guest.Process
	for line := range strings.Lines(string(out)) {
		list = append(list, parseRecord(strings.TrimSuffix(line, "\n")).known())
	}
	return list, nil
}
