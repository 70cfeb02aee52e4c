package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// The channels to guests.
const (
	channelSSH   = "ssh"
	channelAgent = "agent"
	channelAuto  = "auto"
)

// How long SSH is tried on a guest whose agent is up: cloud-init makes host
// keys and installs ours only then.
const (
	sshPatience  = 2 * time.Minute
	autoPatience = 15 * time.Second
	glance       = 5 // where it was tried in vain on that profile's last guest: a part of that
)

// agentSpool is there once a guest was used by its agent: what was started so
// is known there, and nowhere else.
const agentSpool = "/var/lib/agentlab/boot"

// channel is how guests of a profile are reached.
func (p *Provisioner) channel(profile string) string {
	if p.Channel == nil {
		return channelAuto
	}
	return cmp.Or(p.Channel(profile), channelAuto)
}

// enter opens the channel to a guest whose agent answers, of the machine that
// was found then.
func (p *Provisioner) enter(ctx context.Context, m live, ref provisioner.Ref, found time.Time) (guest.Conn, error) {
	channel := p.channel(m.papers.Profile)
	switch {
	case channel == channelSSH:
		conn, err := p.enterBySSH(ctx, m, sshPatience)
		if err != nil {
			return nil, fmt.Errorf("channel ssh: %w", err)
		}
		return conn, nil
	case channel == channelAuto && p.mayEnterBySSH(ctx, m):
		patience := p.patience
		if p.ways.vain(m.papers.Profile) {
			patience /= glance
		}
		conn, err := p.enterBySSH(ctx, m, patience)
		if err == nil {
			p.ways.tried(m.papers.Profile, true)
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		p.ways.tried(m.papers.Profile, false)
		p.log.InfoContext(ctx, "SSH can't be used, the guest agent is", "sandbox", m.papers.Sandbox, "err", err)
		p.ways.settle(m.papers.Sandbox)
	}
	return p.enterByAgent(m, ref, found)
}

// enterByAgent returns the channel over a guest's agent.
func (p *Provisioner) enterByAgent(m live, ref provisioner.Ref, found time.Time) (*agentconn.Conn, error) {
	identity, err := p.identity(ref.Sandbox, m.papers.Keys)
	if err != nil {
		return nil, err
	}
	return p.byAgent(m, ref, identity, found), nil
}

// byAgent returns the channel to a guest that has the identity. Until the next
// reconcile nobody else notices that the VMID has become another's, so the guest
// itself must know whose it is; with SSH its host key says so. It leads nowhere
// once the machine has papers of another generation than m.
func (p *Provisioner) byAgent(m live, ref provisioner.Ref, identity string, found time.Time) *agentconn.Conn {
	check := func(ctx context.Context) error {
		now, err := p.owned(ctx, ref)
		if err == nil && now.papers.Keys != m.papers.Keys {
			err = fmt.Errorf("%w: the machine was handed over", guest.ErrUnreachable)
		}
		return err
	}
	return agentconn.New(agentconn.Config{
		Client: p.Client, VM: m.vm, Limiter: &p.agents, User: p.userOn(m), Pace: p.paces.of(m.papers.Profile),
		Identity: identity, Check: check, Checked: found, Denied: p.unreached,
	})
}

// paces are what was learned of guests, by profile.
type paces struct {
	mu  sync.Mutex
	all map[string]*agentconn.Pace
}

func (s *paces) of(profile string) *agentconn.Pace {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*agentconn.Pace{}
	}
	if s.all[profile] == nil {
		s.all[profile] = &agentconn.Pace{}
	}
	return s.all[profile]
}

// mayEnterBySSH says whether a guest whose channel we may choose is worth
// trying. One that was used by its agent before stays with it.
func (p *Provisioner) mayEnterBySSH(ctx context.Context, m live) bool {
	if len(macs(m.cfg)) == 0 || p.ways.settled(m.papers.Sandbox) {
		return false
	}
	_, err := p.readGuest(ctx, m.vm, agentSpool)
	if err == nil {
		p.ways.settle(m.papers.Sandbox)
	}
	return errors.Is(err, pve.NotFound)
}

// ways remembers how guests were reached.
type ways struct {
	mu       sync.Mutex
	byAgent  map[string]bool   // sandboxes that stay with their agent
	address  map[string]string // of sandboxes, when we know it
	profiles map[string]bool   // profiles whose last guest was tried in vain
}

func (w *ways) settled(sandbox string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byAgent[sandbox]
}

func (w *ways) settle(sandbox string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byAgent == nil {
		w.byAgent = map[string]bool{}
	}
	w.byAgent[sandbox] = true
}

func (w *ways) vain(profile string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.profiles[profile]
}

func (w *ways) tried(profile string, reached bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.profiles == nil {
		w.profiles = map[string]bool{}
	}
	w.profiles[profile] = !reached
}

func (w *ways) ip(sandbox string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.address[sandbox]
}

func (w *ways) setIP(sandbox, ip string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.address == nil {
		w.address = map[string]string{}
	}
	w.address[sandbox] = ip
}

func (w *ways) forget(sandbox string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byAgent, sandbox)
	delete(w.address, sandbox)
}
