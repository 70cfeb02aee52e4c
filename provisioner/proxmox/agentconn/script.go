package agentconn

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// inputMax is how much a script is given with the call that starts it; as form
// data a byte can take six characters of the 512 KiB that Proxmox reads
// (PVE/APIServer/AnyEvent.pm).
const inputMax = 60000

// scriptTime bounds a script of ours; the longest copies a few megabytes.
const scriptTime = 10 * time.Minute

// start starts a script and returns its process in the guest. Arguments are
// words of ours.
func (c *Conn) start(ctx context.Context, name string, input []byte, args ...string) (*process, error) {
	argv := append([]string{"/bin/sh", "-c", script(name), "agentlab-" + name, c.cfg.Identity, "", c.takeLitter()}, args...)
	const adopt = 5
	begun := time.Now()
	pid, err := call(ctx, c, func(ctx context.Context) (int, error) {
		begun = time.Now()
		argv[adopt] = c.mayAdopt()
		return c.cfg.Client.AgentExec(ctx, c.cfg.VM, argv, input)
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{conn: c, name: name, pid: pid, started: begun}, nil
}

// do runs a script to its end and returns what it printed. If that is lost on
// the way, it runs the script again.
func (c *Conn) do(ctx context.Context, name string, input []byte, args ...string) ([]byte, error) {
	for try := 0; ; try++ {
		out, err := again(func() ([]byte, error) { return c.doOnce(ctx, name, input, args...) })
		if !errors.Is(err, errLost) || try == len(retries) || !pve.Sleep(ctx, retries[try]) {
			return out, err
		}
	}
}

func (c *Conn) doOnce(ctx context.Context, name string, input []byte, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := c.start(ctx, name, input, args...)
	if err != nil {
		return nil, err
	}
	s, err := p.wait(ctx, time.Now().Add(scriptTime))
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, unreachable(fmt.Errorf("%s does not end in the guest", name))
	case s.ExitCode != 0 || s.Signal != 0:
		return nil, scriptError(string(s.Err))
	}
	return s.Out, nil
}

// Forms in which data reaches a script.
const (
	withCall   = "none" // with the call that starts it
	asPieces   = "raw"  // uploaded before
	compressed = "gzip" // the same
)

// hello asks once what the guest has, and makes the spool.
func (c *Conn) hello(ctx context.Context) (form string, err error) {
	c.mu.Lock()
	form = c.form
	c.mu.Unlock()
	if form != "" {
		return form, nil
	}
	out, err := c.do(ctx, "hello", nil)
	if err != nil {
		return "", err
	}
	form = asPieces
	if bytes.Contains(out, []byte("gzip")) {
		form = compressed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form = form
	return form, nil
}

// payload gives a script its input: with the call if it fits, else in files
// that are called name.
func (c *Conn) payload(ctx context.Context, name string, data []byte) (input []byte, form string, err error) {
	if len(data) <= inputMax {
		return data, withCall, nil
	}
	form, err = again(func() (string, error) { return c.upload(ctx, name, data) })
	return nil, form, err
}

// upload leaves data in the spool, in pieces that each fit into one call.
func (c *Conn) upload(ctx context.Context, name string, data []byte) (form string, err error) {
	if form, err = c.hello(ctx); err != nil {
		return "", err
	}
	if form == compressed {
		var small bytes.Buffer
		z, _ := gzip.NewWriterLevel(&small, gzip.BestSpeed) // the level is valid
		if _, err := z.Write(data); err != nil {
			return "", err
		}
		if err := z.Close(); err != nil {
			return "", err
		}
		data = small.Bytes()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxCalls)
	for n := 1; len(data) > 0; n++ {
		part := data[:min(len(data), pve.MaxWrite)]
		data = data[len(part):]
		path := fmt.Sprintf("%s/%s.%06d", c.tmp(), name, n)
		g.Go(func() error {
			_, err := call(ctx, c, func(ctx context.Context) (any, error) {
				return nil, c.cfg.Client.AgentWriteFile(ctx, c.cfg.VM, path, part)
			})
			return err
		})
	}
	err = g.Wait()
	var e *pve.Error
	switch {
	case errors.As(err, &e) && e.Kind == pve.AgentError && strings.Contains(e.Message, "No space left"):
		err = guest.ErrNoSpace
	case errors.Is(err, pve.NotFound): // the directory, or the machine
		err = c.estranged()
	}
	return form, err
}

// piece is data that a script left in a file of the spool, or printed.
type piece struct {
	file   string
	n      int64 // bytes of it
	packed int64 // bytes of the file if it is compressed, else 0
}

// fetch returns the data, which begins printed if it is little, and what was
// printed after it.
func (c *Conn) fetch(ctx context.Context, p piece, printed []byte) (data, rest []byte, err error) {
	if p.n <= inline {
		if int64(len(printed)) < p.n {
			return nil, nil, unreachable(errors.New("the guest's answer is cut short"))
		}
		return printed[:p.n], printed[p.n:], nil
	}
	defer c.toss(p.file) // not before: another call may be about to remove what was tossed
	size := p.n
	if p.packed > 0 {
		size = p.packed
	}
	data, err = c.download(ctx, c.tmp()+"/"+p.file, size)
	if err == nil && p.packed > 0 {
		data, err = inflate(data, p.n)
	}
	return data, printed, err
}

// download reads the first n bytes of a file; all if n is negative.
func (c *Conn) download(ctx context.Context, path string, n int64) ([]byte, error) {
	if n >= pve.MaxRead {
		return nil, unreachable(fmt.Errorf("the guest offers %d bytes at once", n))
	}
	f, err := call(ctx, c, func(ctx context.Context) (pve.FileContent, error) {
		return c.cfg.Client.AgentReadFile(ctx, c.cfg.VM, path)
	})
	if err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	if int64(len(f.Data)) < n {
		return nil, unreachable(fmt.Errorf("read output: %d bytes instead of %d", len(f.Data), n))
	}
	if n < 0 {
		return f.Data, nil
	}
	return f.Data[:n], nil
}

// inflate uncompresses exactly n bytes.
func inflate(data []byte, n int64) ([]byte, error) {
	out := make([]byte, n)
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		_, err = io.ReadFull(z, out)
	}
	if err != nil {
		return nil, unreachable(fmt.Errorf("uncompress output: %w", err))
	}
	return out, nil
}

// record is the line name=value name=value... that scripts begin with; why is
// the last of it and may have spaces.
type record map[string]string

func parseRecord(line string) record {
	r := record{}
	line, why, _ := strings.Cut(line, " why=")
	for f := range strings.FieldsSeq(line) {
		k, v, _ := strings.Cut(f, "=")
		r[k] = v
	}
	r["why"] = why
	return r
}

// maxRecord is more than a record has: a process's is some 700 bytes.
const maxRecord = 4096

// answer takes the record off what a script printed.
func answer(out []byte) (record, []byte, error) {
	n := bytes.IndexByte(out[:min(len(out), maxRecord)], '\n')
	if n < 0 {
		return nil, nil, unreachable(fmt.Errorf("the guest's answer %.100q has no record", out))
	}
	return parseRecord(string(out[:n])), out[n+1:], nil
}

// num is a number that the guest gave; it is never negative.
func (r record) num(name string) int64 {
	n, err := strconv.ParseInt(r[name], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// hundredths is a time that the guest gave in hundredths of a second.
func (r record) hundredths(name string) time.Duration {
	return time.Duration(min(r.num(name), maxHundredths)) * 10 * time.Millisecond
}

// maxHundredths is a century; more is no time.
const maxHundredths = 100 * 365 * 24 * 3600 * 100

// piece is that which the record describes by names with this prefix, of at
// most limit bytes.
func (r record) piece(prefix, file string, limit int64) (piece, error) {
	p := piece{file, r.num(prefix + "n"), r.num(prefix + "gz")}
	if p.n > limit {
		return piece{}, unreachable(fmt.Errorf("the guest offers %d bytes instead of %d", p.n, limit))
	}
	return p, nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
