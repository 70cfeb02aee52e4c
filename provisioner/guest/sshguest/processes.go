package sshguest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// Limits of what a guest may say of a process.
const (
	maxID      = 32
	maxCommand = 200
	maxLogPath = 4096
)

type processes struct{ c *Conn }

// Processes returns the guest's own table of processes.
func (c *Conn) Processes() guest.Processes { return processes{c} }

// Start implements guest.Processes.
func (p processes) Start(ctx context.Context, cmd guest.Cmd, opt guest.StartOptions) (guest.Process, guest.Output, error) {
	if len(opt.Stdin) > guest.MaxStdin {
		return guest.Process{}, guest.Output{}, fmt.Errorf("start: standard input of %d bytes, the limit is %d", len(opt.Stdin), guest.MaxStdin)
	}
	opt.Max = wire.Clamp(opt.Max)
	info, out, err := p.call(ctx, wire.OpStart, wire.StartRequest{Cmd: wire.FromCmd(cmd), Options: opt})
	if err == nil && (clipSize(out.Stdout) > opt.Max || clipSize(out.Stderr) > opt.Max || len(out.Both) > 0) {
		err = errLies("more output than asked for")
	}
	return info, out, err
}

// Read implements guest.Processes.
func (p processes) Read(ctx context.Context, id string, req guest.ReadRequest) (guest.Process, guest.Output, error) {
	req.Max = wire.Clamp(req.Max)
	info, out, err := p.call(ctx, wire.OpRead, wire.ReadProcess{ID: id, Req: req})
	if err == nil && (len(out.Both) > req.Max || out.Next-out.Offset != int64(len(out.Both)) || !checkRuns(out) || clipSize(out.Stdout)+clipSize(out.Stderr) > 0) {
		err = errLies("not the output asked for")
	}
	return info, out, err
}

// Control implements guest.Processes.
func (p processes) Control(ctx context.Context, id string, in guest.Input) (guest.Process, error) {
	if len(in.Stdin) > guest.MaxStdin {
		return guest.Process{}, fmt.Errorf("control %s: standard input of %d bytes, the limit is %d", id, len(in.Stdin), guest.MaxStdin)
	}
	info, _, err := p.call(ctx, wire.OpControl, wire.ControlProcess{ID: id, In: in})
	return info, err
}

// List implements guest.Processes.
func (p processes) List(ctx context.Context) ([]guest.Process, error) {
	res, err := call[wire.ListResult](ctx, p.c, wire.OpList, nil)
	if err != nil {
		return nil, err
	}
	list := make([]guest.Process, len(res.Processes))
	for i, w := range res.Processes {
		if list[i], err = checkProcess(w); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (p processes) call(ctx context.Context, op string, args any) (guest.Process, guest.Output, error) {
	res, err := call[wire.ProcessResult](ctx, p.c, op, args)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	info, err := checkProcess(res.Process)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	return info, res.Output, nil
}

// checkProcess refuses what no process can be.
func checkProcess(w wire.Process) (guest.Process, error) {
	p := w.Guest()
	if len(p.ID) > maxID || !strings.HasPrefix(p.ID, "p_") || len(p.Command) > maxCommand || len(p.LogPath) > maxLogPath {
		return guest.Process{}, errLies("not a process")
	}
	p.Duration = max(0, min(p.Duration, 1<<62))
	if p.Started.Year() < 1 || p.Started.Year() > 9999 {
		p.Started = time.Time{}
	}
	var err error
	p.Exit, err = checkExit(p.Exit)
	return p, err
}

// checkRuns says whether Runs are those of Both, if there are any: an older
// guest does not say.
func checkRuns(out guest.Output) bool {
	rest := len(out.Both)
	for _, n := range out.Runs {
		if n < 0 || n > rest {
			return false
		}
		rest -= n
	}
	return out.Runs == nil || rest == 0 && len(out.Runs) <= len(out.Both)+2
}

func checkExit(e guest.Exit) (guest.Exit, error) {
	const longest = 16 // of a signal's name
	if e.Code < 0 || e.Code > 255 || len(e.Signal) > longest {
		return guest.Exit{}, errLies("not an exit status")
	}
	return e, nil
}

func clipSize(c guest.Clip) int { return len(c.Head) + len(c.Tail) }

// errLies is the error for an answer that nobody who keeps to the protocol gives.
func errLies(what string) error {
	return fmt.Errorf("%w: the guest's answer makes no sense: %s", guest.ErrUnreachable, what)
}
