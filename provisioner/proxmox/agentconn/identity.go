package agentconn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// How a script refuses a guest that is not the one meant, as in sh/mine.sh.
const (
	strangerCode = 77
	strangerText = "this guest is another"
)

// adoptTime is how long a look at the machine's config holds good: a guest that
// runs a moment later is that machine's, since another would have to boot.
const adoptTime = 2 * time.Second

// errStranger: the guest does not have the identity. Nothing was done in it.
var errStranger = fmt.Errorf("%w: it is another guest than the sandbox's", guest.ErrUnreachable)

// tmp is where the scripts keep what passes through: its name is the proof of
// the guest's identity, also where a file is uploaded without a script.
func (c *Conn) tmp() string { return spool + "/tmp." + c.cfg.Identity }

// estranged notes that the guest does not have the identity. It may be ours all
// the same: fresh, rolled back, or its root has removed the spool.
func (c *Conn) estranged() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stranger, c.form = true, ""
	return errStranger
}

// identify looks at the machine before a guest is called that did not have the
// identity when it was called last, and says whether it did.
func (c *Conn) identify(ctx context.Context) (looked bool, err error) {
	c.mu.Lock()
	stranger := c.stranger
	c.mu.Unlock()
	if !stranger {
		return false, nil
	}
	if err := c.cfg.Check(ctx); err != nil {
		return true, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stranger, c.checked = false, time.Now()
	return true, nil
}

// refused is the error of a call: that there is no such machine, or that we may
// not use it, can mean that it is gone, and the VMID another's.
func (c *Conn) refused(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	denied := errors.Is(err, pve.Permission)
	if denied || pve.Gone(err, c.cfg.VM) {
		if cerr := c.cfg.Check(ctx); cerr != nil {
			return cerr
		}
	}
	if denied && c.cfg.Denied != nil {
		return c.cfg.Denied(err)
	}
	return unreachable(err)
}

// mayAdopt says which guest may be given the identity now, as in sh/mine.sh. What
// was seen before the channel was opened says nothing of a guest that bears
// another: the machine may have been handed over since.
func (c *Conn) mayAdopt() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case time.Since(c.checked) >= adoptTime:
		return "none"
	case c.checked.Equal(c.cfg.Checked):
		return "bare"
	}
	return "any"
}

// again does f a second time if the guest did not have the identity: before
// that, the machine is looked at.
func again[T any](f func() (T, error)) (T, error) {
	v, err := f()
	if errors.Is(err, errStranger) {
		v, err = f()
	}
	return v, err
}
