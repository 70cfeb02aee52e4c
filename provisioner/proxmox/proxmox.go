// Package proxmox makes machines of a Proxmox VE cluster: each is a clone of a
// template, in a pool of ours, with an ID from a range of ours.
//
// A machine carries its papers in its description, bound to its ID, so that a
// copy of them on another machine is worth nothing, and a mark in its tags that
// changes with them, so that one look at the cluster shows what is new. A
// machine is changed or destroyed only if ID, papers and tag of its config as
// it is at that moment agree with what was asked for.
//
// What PVE does and when was measured on 8.4 and 9.2 or names the PVE source
// file it was read from.
package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/agentlab-mcp/agentlab/internal/keylock"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Provisioner makes machines of one cluster. Its exported fields may be changed
// until the first method call. Several may share a cluster, also a pool and a
// range.
type Provisioner struct {
	Client   *pve.Client     // required
	Key      provisioner.Key // signs papers; the keys of the channels are derived from it
	Instance string          // id of this installation
	Pool     string          // that machines are made in; required
	VMIDs    Range           // that machines get their IDs from; required
	Template string          // of a Spec without Root, in its syntax
	Nodes    []string        // that may be used; empty is all
	Bridge   string          // that machines with a network are connected to; empty is the template's
	Log      *slog.Logger    // nil is none

	// User names whom cloud-init gives our key on machines of a profile; nil or
	// empty is root.
	User func(profile string) string
	// Channel says how guests of a profile are reached: "ssh", "agent", or
	// "auto", which is SSH if it can be reached from here; nil or empty is auto.
	Channel func(profile string) string
	// Guest is the path of agentlab-guest, which the channel over SSH puts into
	// machines; empty: next to our own binary, then PATH.
	Guest string

	// PowerOff is how long after its end a guest powers itself off if nobody came
	// for it; 0 is never.
	PowerOff time.Duration

	// DialSSH connects to the SSH server of the guest at an address; nil is by
	// TCP, port 22.
	DialSSH func(ctx context.Context, ip netip.Addr) (net.Conn, error)

	grace time.Duration // see defaultGrace
	undo  time.Duration // what undoing a failed Create may take

	patience time.Duration // see autoPatience
	nodeTime time.Duration // see defaultNodeTime
	bootTime time.Duration // see defaultBootTime
	askAgain time.Duration // see defaultAskAgain

	once     sync.Once
	log      *slog.Logger
	machine  keylock.Locks      // serialises what changes one machine
	looks    singleflight.Group // of Creates and Destroys that want to look at once
	agents   agentconn.Limiter  // of calls to guest agents
	prober   prober
	ways     ways // to guests
	silent   silence
	paces    paces // of guest agents
	switches switches

	mu        sync.Mutex
	last      *inventory            // the latest look at the cluster
	surveyed  *inventory            // the latest one of which all was read
	known     map[int]entry         // what was read of machines, by VMID
	making    map[int]bool          // VMIDs that are being made here
	strangers []int                 // VMIDs that were warned of last
	taken     map[int]time.Time     // VMIDs that were found in use, though we see no machine
	cursor    int                   // where the next search for a VMID begins
	reserved  []*reservation        // memory that machines being made will take
	templates map[int]knownTemplate // by VMID
	named     map[int]bool          // VMIDs of machines whose names were told since we began
}

var (
	_ provisioner.Provisioner = (*Provisioner)(nil)
	_ provisioner.Relabeler   = (*Provisioner)(nil)
	_ provisioner.Checker     = (*Provisioner)(nil)
	_ provisioner.Vetter      = (*Provisioner)(nil)
	_ provisioner.Trimmer     = (*Provisioner)(nil)
	_ provisioner.Pooler      = (*Provisioner)(nil)
	_ provisioner.Stopper     = (*Provisioner)(nil)
	_ provisioner.Suspender   = (*Provisioner)(nil)
	_ provisioner.Resizer     = (*Provisioner)(nil)
)

// Range is the VMIDs from First to Last.
type Range struct{ First, Last int }

func (r Range) has(id int) bool { return r.First <= id && id <= r.Last }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

const (
	// callTime is what a call may take that is not given up when the caller
	// does: its answer names the task it has started.
	callTime = 2 * time.Minute
	// defaultUndo is what undoing a failed Create may take.
	defaultUndo = 3 * time.Minute
	// edits is how often a config is read and changed that somebody else always
	// changes in between.
	edits = 8
	// osName is what machines are called for people.
	osName = "Linux (Proxmox VE)"
	// minMemoryMB is the least that PVE gives a machine.
	minMemoryMB = 16
)

var validName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// init fills in what the zero value lacks.
func (p *Provisioner) init() {
	p.once.Do(func() {
		if p.log = p.Log; p.log == nil {
			p.log = slog.New(slog.DiscardHandler)
		}
		p.grace = cmp.Or(p.grace, defaultGrace)
		p.undo = cmp.Or(p.undo, defaultUndo)
		p.patience = cmp.Or(p.patience, autoPatience)
		p.nodeTime = cmp.Or(p.nodeTime, defaultNodeTime)
		p.bootTime = cmp.Or(p.bootTime, defaultBootTime)
		p.askAgain = cmp.Or(p.askAgain, defaultAskAgain)
		p.prober.ping = p.ping
		if p.DialSSH == nil {
			p.DialSSH = dialSSH
		}
		p.known, p.making = map[int]entry{}, map[int]bool{}
		p.taken, p.templates, p.named = map[int]time.Time{}, map[int]knownTemplate{}, map[int]bool{}
	})
}

// user is whom we are on machines of a profile.
func (p *Provisioner) user(profile string) string {
	if p.User == nil {
		return "root"
	}
	return cmp.Or(p.User(profile), "root")
}

// userOn is whom we are on a machine: as whom cloud-init has let us in, whatever
// its profile says by now.
func (p *Provisioner) userOn(m live) string { return cmp.Or(m.cfg["ciuser"], p.user(m.papers.Profile)) }

// home is where a user starts.
func home(user string) string {
	if user == "root" {
		return "/root"
	}
	return "/home/" + user
}

// describe returns the machine that has these papers.
func (p *Provisioner) describe(vm pve.VM, papers provisioner.Papers, running bool) provisioner.Machine {
	return provisioner.Machine{
		Ref:    provisioner.Ref{Sandbox: papers.Sandbox, Handle: handle{id: vm.ID}.String()},
		Papers: papers, Running: running, Home: home(p.user(papers.Profile)), OS: osName, Place: vm.Node,
		IP: p.ways.ip(papers.Sandbox),
	}
}

// validate says what keeps a machine of that spec from being made here.
func (p *Provisioner) validate(spec provisioner.Spec) error {
	if p.Pool == "" || p.VMIDs.First < 100 || p.VMIDs.Last < p.VMIDs.First {
		return fmt.Errorf("pool %q and VMIDs %v: set a pool and a range from 100 on: %w", p.Pool, p.VMIDs, provisioner.ErrUnavailable)
	}
	return spec.Check(p.Instance, minMemoryMB, "none", "internet")
}

// Relabel implements [provisioner.Relabeler]. The config is changed only if it
// is still the one whose papers were read.
func (p *Provisioner) Relabel(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers) error {
	p.init()
	if papers.Sandbox != ref.Sandbox || papers.Instance != p.Instance {
		return fmt.Errorf("relabel %s: papers are of %s of %s: %w", ref.Sandbox, papers.Sandbox, papers.Instance, provisioner.ErrInvalid)
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = p.edit(ctx, ref, func(m live) error { return p.relabel(ctx, m, papers, nil) })
	if err != nil {
		return fmt.Errorf("relabel %s: %w", ref.Sandbox, sentinel(p.advise(err)))
	}
	return nil
}

// edit changes the machine that ref names, and returns it as it was before.
// change is called again if somebody else was faster.
func (p *Provisioner) edit(ctx context.Context, ref provisioner.Ref, change func(live) error) (m live, err error) {
	for range edits {
		if m, err = p.find(ctx, ref); err == nil {
			err = change(m)
		}
		if !errors.Is(err, pve.Modified) {
			break
		}
	}
	return m, err
}

// relabel replaces the papers in a machine's config, and with them these options.
func (p *Provisioner) relabel(ctx context.Context, m live, papers provisioner.Papers, options map[string]string) error {
	text, err := p.seal(m.vm.ID, whole, papers)
	if err != nil {
		return err
	}
	set := map[string]string{"description": text, "tags": p.tags(m.cfg.Tags(), text)}
	maps.Copy(set, options)
	if err := p.Client.SetConfig(ctx, m.vm, pve.Change{Set: set, Digest: m.cfg.Digest()}); err != nil {
		p.forget(m.vm.ID) // it may have been changed all the same
		return err
	}
	if off := p.remember(m.vm, papers, text); !off {
		p.arm(m.vm, papers)
	}
	return nil
}

// steady returns a context for a call whose answer must not be lost because
// the caller gives up.
func steady(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// sentinel adds what the error means to a caller who knows no Proxmox.
func sentinel(err error) error {
	for _, s := range []error{
		provisioner.ErrNotOurs, provisioner.ErrNotFound, provisioner.ErrExhausted, provisioner.ErrUnavailable,
		provisioner.ErrInvalid, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, s) {
			return err
		}
	}
	meaning := provisioner.ErrUnavailable
	if errors.Is(err, pve.NoSpace) {
		meaning = provisioner.ErrExhausted
	}
	return fmt.Errorf("%w: %w", err, meaning)
}
