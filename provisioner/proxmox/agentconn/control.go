package agentconn

import (
	"context"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

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
	rec, _, err := p.log(ctx, id, 0, 0, 0)
	if err != nil {
		return fail(err)
	}
	return rec.known(), nil
}

// control does it; limit is how much input may wait in the guest.
func (c *Conn) control(ctx context.Context, key string, in guest.Input, limit int) error {
	name := newKey()
	input, form, err := c.payload(ctx, name, in.Stdin)
	if err != nil {
		return err
	}
	out, err := c.do(ctx, "control", input, key, fmt.Sprint(len(in.Stdin)), name, form, flag(in.CloseStdin), in.Signal, fmt.Sprint(limit))
	c.toss(name + ".once " + name + ".said")
	if err != nil {
		return err
	}
	rec, _, err := answer(out)
	if err != nil {
		return err
	}
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
