package agentconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// callTime bounds one call to Proxmox. It is longer than what Proxmox itself
// grants the agent: 3 s for a ping and 5 s for the command, three times for a
// file (PVE/QMPClient.pm, PVE/API2/Qemu/Agent.pm).
const callTime = 40 * time.Second

// Pauses between looks at a process in the guest.
const (
	firstPause = 4 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// patience is how often in a row asking for a status may fail before the guest
// counts as gone. A failed question loses nothing unless it was answered.
const patience = 4

// inputMax is how much a script is given with the call that starts it; as form
// data a byte can take six characters of the 512 KiB that Proxmox reads
// (PVE/APIServer/AnyEvent.pm).
const inputMax = 60000

// limited makes one agent call when it is its turn. The call itself is not
// broken off with ctx: what has begun is to be known.
func (c *Conn) limited(ctx context.Context, call func(context.Context) error) error {
	if err := c.ctx.Err(); err != nil {
		return unreachable(errors.New("the connection is closed"))
	}
	release, err := c.cfg.Limiter.Acquire(ctx, c.cfg.VM.Node)
	if err != nil {
		return err
	}
	defer release()
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	if err := call(detached); err != nil {
		return unreachable(err)
	}
	return nil
}

// start starts a script and returns its process in the guest. Arguments are
// words of ours.
func (c *Conn) start(ctx context.Context, name string, input []byte, args ...string) (*process, error) {
	argv := append([]string{"/bin/sh", "-c", script(name), "agentlab-" + name, c.takeLitter()}, args...)
	p := &process{conn: c, pause: firstPause}
	err := c.limited(ctx, func(ctx context.Context) (err error) {
		p.pid, err = c.cfg.Client.AgentExec(ctx, c.cfg.VM, argv, input)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// process is a program that the agent started. Its end is told once: only the
// goroutine that has the process may look.
type process struct {
	conn   *Conn
	pid    int
	pause  time.Duration
	failed int
}

// look asks once whether it has ended.
func (p *process) look(ctx context.Context) (*pve.ExecStatus, error) {
	var s pve.ExecStatus
	err := p.conn.limited(ctx, func(ctx context.Context) (err error) {
		s, err = p.conn.cfg.Client.AgentExecStatus(ctx, p.conn.cfg.VM, p.pid)
		return err
	})
	switch {
	case err == nil:
		p.failed = 0
	case ctx.Err() != nil || p.conn.ctx.Err() != nil || errors.Is(err, pve.NotFound):
		return nil, err
	default:
		if p.failed++; p.failed >= patience {
			return nil, err
		}
		return nil, nil
	}
	if !s.Exited {
		return nil, nil
	}
	return &s, nil
}

// wait looks until the process has ended or the time is over; then the status
// is nil. If ctx ends, somebody else takes the end.
func (p *process) wait(ctx context.Context, until time.Time) (*pve.ExecStatus, error) {
	for {
		s, err := p.look(ctx)
		if err != nil || s != nil {
			if ctx.Err() != nil {
				p.abandon()
				err = ctx.Err()
			}
			return s, err
		}
		left := time.Until(until)
		if left <= 0 {
			return nil, nil
		}
		if !sleep(ctx, min(p.pause, left)) {
			p.abandon()
			return nil, ctx.Err()
		}
		p.pause = min(p.pause*3/2, lastPause)
	}
}

// abandon leaves the process to a goroutine that takes its end, so that the
// agent can forget it.
func (p *process) abandon() {
	ctx, cancel := context.WithTimeout(p.conn.ctx, time.Minute)
	p.pause = lastPause
	go func() {
		defer cancel()
		for {
			if s, err := p.look(ctx); err != nil || s != nil || !sleep(ctx, p.pause) {
				return
			}
			p.pause = min(2*p.pause, 8*time.Second)
		}
	}()
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// do runs a script to its end and returns what it printed.
func (c *Conn) do(ctx context.Context, name string, input []byte, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := c.start(ctx, name, input, args...)
	if err != nil {
		return nil, err
	}
	s, err := p.wait(ctx, time.Now().Add(10*time.Minute))
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, unreachable(fmt.Errorf("%s does not end in the guest", name))
	case s.ExitCode != 0 || s.Signal != 0:
		return nil, scriptError(string(s.Err))
	}
	c.mu.Lock()
	c.ready = true
	c.mu.Unlock()
	return s.Out, nil
}

// upload leaves data in the spool as NAME.000001, NAME.000002... from n on.
func (c *Conn) upload(ctx context.Context, name string, n int, data []byte) (next int, err error) {
	c.mu.Lock()
	ready := c.ready
	c.mu.Unlock()
	if !ready { // any script makes the directory
		if _, err := c.do(ctx, "drop", nil, "none"); err != nil {
			return n, err
		}
	}
	for len(data) > 0 {
		part := data[:min(len(data), pve.MaxWrite)]
		data = data[len(part):]
		path := fmt.Sprintf("%s/tmp/%s.%06d", spool, name, n)
		err := c.limited(ctx, func(ctx context.Context) error {
			return c.cfg.Client.AgentWriteFile(ctx, c.cfg.VM, path, part)
		})
		if err != nil {
			var e *pve.Error
			if errors.As(err, &e) && e.Kind == pve.AgentError && strings.Contains(e.Message, "No space left") {
				err = guest.ErrNoSpace
			}
			return n, err
		}
		n++
	}
	return n, nil
}

// payload gives a script its input: with the call if it fits, else in files.
func (c *Conn) payload(ctx context.Context, name string, data []byte) (input []byte, pieces bool, err error) {
	if len(data) <= inputMax {
		return data, false, nil
	}
	_, err = c.upload(ctx, name, 1, data)
	return nil, true, err
}

// download reads the first n bytes of a file of the spool; all if n is negative.
func (c *Conn) download(ctx context.Context, path string, n int64) ([]byte, error) {
	var f pve.FileContent
	err := c.limited(ctx, func(ctx context.Context) (err error) {
		f, err = c.cfg.Client.AgentReadFile(ctx, c.cfg.VM, spool+"/"+path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	if int64(len(f.Data)) < n {
		return nil, fmt.Errorf("read output: %w: %d bytes instead of %d", guest.ErrUnreachable, len(f.Data), n)
	}
	if n < 0 {
		return f.Data, nil
	}
	return f.Data[:n], nil
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

// answer takes the record off what a script printed.
func answer(out []byte) (record, []byte) {
	line, rest, _ := bytes.Cut(out, []byte("\n"))
	return parseRecord(string(line)), rest
}

// num is a number that the guest gave; it is never negative.
func (r record) num(name string) int64 {
	n, err := strconv.ParseInt(r[name], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
