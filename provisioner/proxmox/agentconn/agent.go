package agentconn

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// callTime bounds one call to Proxmox. It is longer than what Proxmox itself
// grants the agent: 3 s for a ping and 5 s for the command, three times for a
// file (PVE/QMPClient.pm, PVE/API2/Qemu/Agent.pm).
const callTime = 40 * time.Second

// retries are the pauses before a call is made again that failed in a way that
// says nothing of the guest: its agent may just be starting anew. Together with
// what Proxmox waits for an agent, a hung one is given up after some 15 s.
var retries = []time.Duration{50 * time.Millisecond, 500 * time.Millisecond, time.Second}

// passing are the failures after which asking again may help.
var passing = []pve.Kind{
	pve.AgentNotRunning, pve.AgentTimeout, pve.Interrupted, pve.ConnectionLost, pve.Unreachable, pve.NodeUnreachable,
}

var errClosed = errors.New("the connection is closed")

// call makes one call to the agent when it is its turn, and makes it again where
// that may help: f may run several times. When ctx ends, call returns at once; a
// call under way goes on, since Proxmox would not break it off either.
func call[T any](ctx context.Context, c *Conn, f func(context.Context) (T, error)) (T, error) {
	for try := 0; ; try++ {
		v, err := callOnce(ctx, c, f)
		again := err != nil && try < len(retries) && ctx.Err() == nil && c.ctx.Err() == nil &&
			slices.ContainsFunc(passing, func(k pve.Kind) bool { return errors.Is(err, k) })
		if !again || !pve.Sleep(ctx, retries[try]) {
			return v, err
		}
	}
}

func callOnce[T any](ctx context.Context, c *Conn, f func(context.Context) (T, error)) (v T, err error) {
	if c.ctx.Err() != nil {
		return v, unreachable(errClosed)
	}
	release, err := c.turn(ctx)
	if err != nil {
		return v, err
	}
	looked, err := c.identify(ctx)
	if err != nil {
		release()
		return v, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		defer cancel()
		v, err := f(ctx)
		c.silence.note(err)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if looked && r.err != nil {
			_ = c.estranged() // that look may be too old for the next try
		}
		return r.v, c.refused(ctx, r.err)
	case <-ctx.Done():
		return v, c.silence.during(ctx)
	case <-c.ctx.Done():
		return v, unreachable(errClosed)
	}
}

// process is a program that the agent started. Its end is told once: only the
// goroutine that has the process may look.
type process struct {
	conn    *Conn
	name    string // of the script
	pid     int
	started time.Time
	looks   int
	seen    time.Duration // how old it was when it was last seen running
	// begin starts it a second time, if the guest refused it; nil is not.
	begin func(context.Context) (*process, error)
}

// errLost: the agent does not know the process. It told its end and the answer
// was lost on the way, or it was started anew.
var errLost = errors.New("the guest agent has forgotten the process")

// look asks once whether it has ended; else the status is nil.
func (p *process) look(ctx context.Context) (*pve.ExecStatus, error) {
	asked := time.Since(p.started)
	s, err := call(ctx, p.conn, func(ctx context.Context) (pve.ExecStatus, error) {
		return p.conn.cfg.Client.AgentExecStatus(ctx, p.conn.cfg.VM, p.pid)
	})
	switch {
	case errors.Is(err, pve.NotFound):
		return nil, unreachable(errLost)
	case err != nil:
		return nil, err
	case !bool(s.Exited):
		p.seen = asked
		return nil, nil
	}
	if int64(s.ExitCode) == strangerCode && strings.Contains(string(s.Err), strangerText) {
		return nil, p.conn.estranged()
	}
	waited := p.waited(s)
	p.conn.pace.ended(p.name, p.seen-waited, time.Since(p.started)-waited)
	return &s, nil
}

// waited is how long a supervisor only waited for its command.
func (p *process) waited(s pve.ExecStatus) time.Duration {
	if p.name != "supervise" {
		return 0
	}
	rec, _, _ := answer(s.Out) // who needs it sees that there is none
	return rec.hundredths("took")
}

// wait looks until the process has ended or the time is over; then the status
// is nil. If ctx ends, somebody else takes the end.
func (p *process) wait(ctx context.Context, until time.Time) (*pve.ExecStatus, error) {
	for {
		pause := p.conn.pace.pause(p.name, time.Since(p.started), p.looks)
		left := time.Until(until)
		if p.looks > 0 && left <= 0 {
			return nil, nil
		}
		if p.looks > 0 {
			pause = min(pause, left)
		}
		if !pve.Sleep(ctx, pause) {
			p.abandon()
			return nil, ctx.Err()
		}
		p.looks++
		s, err := p.look(ctx)
		if errors.Is(err, errStranger) && p.begin != nil {
			anew, berr := p.begin(ctx)
			if berr == nil {
				*p = *anew
				continue
			}
			err = berr
		}
		if err != nil && ctx.Err() != nil {
			p.abandon()
			err = p.conn.silence.during(ctx)
		}
		if err != nil || s != nil {
			return s, err
		}
	}
}

// abandon leaves the process to a goroutine that takes its end, so that the
// agent can forget it.
func (p *process) abandon() {
	ctx, cancel := context.WithTimeout(p.conn.ctx, time.Minute)
	go func() {
		defer cancel()
		for pause := lastPause; pve.Sleep(ctx, pause); pause = min(2*pause, 8*time.Second) {
			if s, err := p.look(ctx); err != nil || s != nil {
				return
			}
		}
	}()
}
