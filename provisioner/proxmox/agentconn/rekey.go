package agentconn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Self is what makes a guest one of its own.
type Self struct {
	Identity  string // as of Config, from now on
	Hostname  string
	MachineID string   // as of machine-id(5), which no other machine may have
	Login     string   // the user whose key it is
	Key       string   // our line in the user's authorized_keys
	Spent     []string // what stood there before, without their types, and is good for nothing any more
	HostKey   string   // the public half of its SSH host key, a line
	// HostSecret is the private half as OpenSSH keeps it, Random what is mixed into
	// the guest's random numbers, Saved what it keeps for those after a reboot.
	HostSecret, Random, Saved redact.Bytes
	Switch                    Switch
}

// errOther: the guest has not become what it was to be.
var errOther = errors.New("the guest is not what it was made")

// Rekey makes the guest another than it was, by one script as root, which may
// run again and then does the same. It returns the channel to what the guest is
// now, over which c is good for nothing, and whether its switch was armed: it is
// if it was before.
func (c *Conn) Rekey(ctx context.Context, s Self) (anew *Conn, armed bool, err error) {
	var secrets strings.Builder
	for _, b := range []redact.Bytes{s.Random, s.Saved} {
		secrets.WriteString(hex.EncodeToString(b.Reveal()) + "\n")
	}
	secrets.Write(s.HostSecret.Reveal())
	out, err := c.do(ctx, "rekey", []byte(secrets.String()), s.Identity, s.Hostname, s.MachineID,
		s.Login, strings.Join(s.Spent, " "), s.Key, s.HostKey, s.Switch.ID, s.Switch.seconds())
	if err != nil {
		return nil, false, fmt.Errorf("re-key the guest: %w", err)
	}
	is := parseRecord(strings.TrimSpace(string(out)))
	if is["machine"] != s.MachineID || is["name"] != s.Hostname {
		return nil, false, unreachable(fmt.Errorf("%w: machine-id %.64q and name %.64q", errOther, is["machine"], is["name"]))
	}
	cfg := c.cfg
	cfg.Identity, cfg.Checked = s.Identity, time.Time{} // it was given it just now
	return New(cfg), is["switched"] == "1", nil
}
