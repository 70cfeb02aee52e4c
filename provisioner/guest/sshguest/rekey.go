package sshguest

import (
	"context"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// HostKey returns the only key that the guest may show: it tells whose channel
// this is.
func (c *Conn) HostKey() ssh.PublicKey { return c.cfg.HostKey }

// Rekey has the guest do what to says, which gets a session of our making, and
// returns a channel by cfg, which has the new keys. The connection by which the
// guest was told, and has answered, is the first of that session: nobody but the
// guest has it. Of c nothing more can be expected, and it is still to be closed.
//
// Meanwhile is called when the guest was told and has not answered yet.
//
// It can be repeated, on a channel with the keys from before or with the new
// ones: with guest.ErrUnreachable the guest may have done it or not.
func (c *Conn) Rekey(ctx context.Context, to guest.Rekey, cfg Config, meanwhile func()) (*Conn, error) {
	session := wire.MakeSession()
	to.Session = session.Payload()
	l, err := c.link(ctx)
	if err != nil {
		return nil, err
	}
	got, err := callOn[wire.RekeyResult](ctx, l, wire.OpRekey, to, meanwhile)
	if err != nil {
		return nil, err
	}
	if got.Hostname != to.Hostname || got.MachineID != to.MachineID {
		return nil, fmt.Errorf("the guest is %.100q with machine-id %.100q, it was to be %q with %q",
			got.Hostname, got.MachineID, to.Hostname, to.MachineID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = nil
	l.session.Store(session)
	next := New(cfg)
	next.current = l
	return next, nil
}
