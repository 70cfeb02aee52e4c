package agentconn

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// fetchWait is how long a script in the guest waits for output at most, in
// hundredths of a second.
const fetchWait = 3000

// log asks for a piece of a log; key is a process or the key of its job.
func (c *Conn) log(ctx context.Context, key string, off int64, limit int, wait int64) (record, []byte, error) {
	file := newKey()
	out, err := c.do(ctx, "fetch", nil, key, decimal(off), fmt.Sprint(limit), decimal(wait), file)
	if err != nil {
		return nil, nil, err
	}
	rec, data, err := answer(out)
	switch {
	case err != nil:
		return nil, nil, err
	case rec["none"] == "1":
		return rec, nil, guest.ErrNoProcess
	case !processID.MatchString(rec["id"]), processID.MatchString(key) && rec["id"] != key:
		return nil, nil, unreachable(fmt.Errorf("asked for %s the guest describes %.100q", key, rec["id"]))
	}
	piece, err := rec.piece("", file, int64(limit))
	if err != nil {
		return nil, nil, err
	}
	data, _, err = c.fetch(ctx, piece, data)
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
	if !req.Peek {
		p.remember(id, out.Next)
	}
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
		rec, data, err := r.log(ctx, r.id, r.off, r.max, wait)
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
	var end int64 // of what is read although the time is over
	first := true
	for {
		wait := slice(until)
		rec, data, err := r.log(ctx, r.id, r.off, maxPiece, wait)
		if err != nil {
			return err
		}
		at := rec.num("offset")
		if !first && at < r.off {
			return unreachable(fmt.Errorf("the guest gives output from %d on, and was asked from %d on", at, r.off))
		}
		if first {
			r.begin, first = at, false
		}
		if at == r.begin+int64(len(r.both)) {
			r.both = append(r.both, data[:min(len(data), r.max-len(r.both))]...)
		}
		r.rec, r.off = rec, at+int64(len(data))
		if wait == 0 && end == 0 {
			end = min(rec.num("total"), at+guest.MaxLog)
		}
		window = append(window, data...)
		if r.matched = re.Match(window); r.matched {
			return nil
		}
		window = append([]byte(nil), window[max(0, len(window)-maxSpan):]...)
		over := rec["ended"] == "1" && r.off >= rec.num("total") || wait == 0 && r.off >= end
		if over || len(data) < maxPiece && wait == 0 { // the script gives all there is
			return nil
		}
	}
}
