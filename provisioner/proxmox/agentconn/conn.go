// Package agentconn reaches the inside of a virtual machine through the QEMU
// guest agent: a guest.Conn that needs no network, no key and nothing of ours
// in the guest, only a POSIX shell and coreutils or busybox.
//
// The agent as Proxmox offers it can start a program, tell once how it ended,
// and read or write a file of some size. So scripts of ours (directory sh) run
// in the guest, keep output in files there, and hand it out in pieces. What a
// user gives travels as bytes, never in a command line: Proxmox would cut that
// short at the first character beyond ASCII, and the agent would go deaf
// (PVE/QMPClient.pm, measured).
//
// A VMID that is free is handed out again, so that a guest has to prove that it
// is the one meant before a script does anything in it: see [Config.Identity].
//
// In the guest all is below /var/lib/agentlab. A process that was started is
// watched by a shell there, and needs us no more. A command under Run is killed
// when nobody has asked for its output for one to two minutes.
package agentconn

import (
	"context"
	"crypto/rand"
	"embed"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

var _ guest.Conn = (*Conn)(nil)

//go:embed sh/*.sh
var scripts embed.FS

// spool is where the scripts keep everything, as in sh/mine.sh.
const spool = "/var/lib/agentlab"

// Config says which guest to reach.
type Config struct {
	Client  *pve.Client // required
	VM      pve.VM      // required
	Limiter *Limiter    // required: the one of this Proxmox
	User    string      // who runs commands and owns files; empty is root, as the agent is

	// Identity is what no guest but the sandbox's has been given: a word of
	// letters and digits, the same for all who use that guest. It guards against
	// mistakes, not against who has it given to another: it is no secret to
	// those who list the guest's processes. Required.
	Identity string
	// Check returns nil if the machine is the sandbox's by its live config. It is
	// asked about a guest that does not have the identity before it is given it,
	// or anything else is done there. Its errors are returned as they are. Required.
	Check func(context.Context) error
	// Checked is when the machine was seen to be the sandbox's before the first
	// Check; zero is never. Soon after that none is needed.
	Checked time.Time
	// Pace is what was learned of guests like this one, which all who use such
	// share; nil is nothing.
	Pace *Pace
	// Denied makes the error of a call that Proxmox does not permit, though the
	// machine is the sandbox's; nil leaves it guest.ErrUnreachable.
	Denied func(error) error
}

// Conn implements guest.Conn.
type Conn struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	beginTime time.Duration // as defaultBeginTime
	pace      *Pace
	silence   silence

	mu     sync.Mutex
	litter []string         // files of ours in the guest, to remove with the next call
	last   map[string]int64 // by process: where the last Read or Start of it ended
	form   string           // in which data is best uploaded; empty is not known

	checked  time.Time // as Config.Checked
	stranger bool      // the guest did not have the identity
}

// New returns a Conn. It calls nothing yet.
func New(cfg Config) *Conn {
	if cfg.User == "root" {
		cfg.User = ""
	}
	c := &Conn{cfg: cfg, beginTime: defaultBeginTime, last: map[string]int64{}, checked: cfg.Checked, pace: cfg.Pace}
	if c.pace == nil {
		c.pace = &Pace{}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends the calls that are under way. What Processes started goes on.
func (c *Conn) Close() error {
	c.cancel()
	return nil
}

// lean are the scripts that need nothing of lib.sh. A guest in which only these
// have run was not used by its agent.
var lean = []string{"rekey", "arm"}

// script returns the text of a script with what it shares with others before it.
func script(name string) string {
	parts := []string{"mine", "lib", name}
	if slices.Contains(lean, name) {
		parts = []string{"mine", name}
	}
	var all strings.Builder
	for _, n := range parts {
		all.WriteString(text(n))
	}
	return all.String()
}

// text returns what is in a file of directory sh.
func text(name string) string {
	b, err := scripts.ReadFile("sh/" + name + ".sh")
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// newKey returns a name that nobody in the guest can guess.
func newKey() string { return strings.ToLower(rand.Text()) }

// toss has files removed by the next call. Names start from the spool's tmp.
func (c *Conn) toss(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.litter = append(c.litter, names...)
}

// takeLitter returns what to remove, at most as much as fits well.
func (c *Conn) takeLitter() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.litter), 100)
	names := strings.Join(c.litter[:n], " ")
	c.litter = c.litter[n:]
	return names
}
