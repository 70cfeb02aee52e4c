package proxmox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
)

// Rekey implements [provisioner.Pooler]. The papers come first, so that whoever
// looks after a crash knows whose the machine is; until the guest has followed, a
// channel to it may lead nowhere.
func (p *Provisioner) Rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec, conn guest.Conn) (guest.Conn, error) {
	p.init()
	if conn != nil {
		_ = conn.Close() // what it was good for is over
	}
	next, err := p.rekey(ctx, ref, spec)
	if err != nil {
		return nil, fmt.Errorf("re-key %s: %w", ref.Sandbox, err)
	}
	return next, nil
}

func (p *Provisioner) rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec) (guest.Conn, error) {
	if err := p.validate(spec); err != nil {
		return nil, err
	}
	if spec.Papers.Sandbox != ref.Sandbox {
		return nil, fmt.Errorf("papers are of %s: %w", spec.Papers.Sandbox, provisioner.ErrInvalid)
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	login, err := p.login(spec)
	if err != nil {
		return nil, err
	}
	m, err := p.edit(ctx, ref, func(m live) error {
		if err := mayRekey(m, spec.Papers); err != nil {
			return err
		}
		return p.relabel(ctx, m, spec.Papers, login)
	})
	if err != nil {
		return nil, sentinel(p.advise(err))
	}
	return p.rekeyGuest(ctx, m, ref, spec)
}

// mayRekey returns nil if a machine can be given these papers and new keys.
func mayRekey(m live, papers provisioner.Papers) error {
	if m.stage != whole {
		return fmt.Errorf("VM %s was never started: %w", m.vm, provisioner.ErrInvalid)
	}
	return m.papers.HandOver(papers)
}

// rekeyGuest makes a guest what the spec says, whose machine had the papers in m
// before. Whatever its channel, it is done by its agent: that needs neither the
// old keys nor the new ones.
func (p *Provisioner) rekeyGuest(ctx context.Context, m live, ref provisioner.Ref, spec provisioner.Spec) (guest.Conn, error) {
	was, err := p.identity(ref.Sandbox, m.papers.Keys)
	if err != nil {
		return nil, err
	}
	self, err := p.self(spec, p.userOn(m))
	if err != nil {
		return nil, err
	}
	m.papers = spec.Papers
	found := time.Now()
	old := p.byAgent(m, ref, was, time.Time{}) // a guest that lacks the identity is looked at first
	defer old.Close()
	conn, armed, err := old.Rekey(ctx, self)
	if err != nil {
		return nil, p.unlessOther(err)
	}
	if armed {
		p.switches.armed(ref.Sandbox, spec.Papers.End)
	}
	channel := p.channel(spec.Papers.Profile)
	if channel == channelAgent || channel == channelAuto && !p.mayEnterBySSH(ctx, m) {
		return conn, nil
	}
	_ = conn.Close() // it has told what it was to tell
	next, err := p.enter(ctx, m, ref, found)
	if err != nil {
		return nil, p.unreached(err)
	}
	return next, nil
}

// unlessOther makes the error of a guest one of its channel, unless it is that the
// machine is not what it was taken for.
func (p *Provisioner) unlessOther(err error) error {
	for _, known := range []error{
		provisioner.ErrNotOurs, provisioner.ErrNotFound, provisioner.ErrUnavailable, guest.ErrUnreachable,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	return p.unreached(err)
}

// self is what the guest of a machine becomes by that spec. It is always the same
// for one generation of its keys, but for what is random.
func (p *Provisioner) self(spec provisioner.Spec, user string) (s agentconn.Self, err error) {
	sandbox, keys := spec.Papers.Sandbox, spec.Papers.Keys
	s = agentconn.Self{
		Hostname: hostname(spec), Login: user,
		Random: make([]byte, 32), Saved: make([]byte, 32), Switch: p.switchOf(spec.Papers),
	}
	_, _ = rand.Read(s.Random) // never fails (crypto/rand)
	_, _ = rand.Read(s.Saved)
	var errs [5]error
	s.Identity, errs[0] = p.identity(sandbox, keys)
	s.Key, errs[1] = p.clientLine(sandbox, keys)
	var private []byte
	s.HostKey, private, errs[2] = p.hostKey(sandbox, keys)
	s.HostSecret = private
	s.MachineID, errs[3] = p.Key.MachineID(sandbox, keys)
	for n := range keys {
		spent, err := p.clientLine(sandbox, n)
		errs[4] = errors.Join(errs[4], err)
		_, spent, _ = strings.Cut(spent, " ")
		s.Spent = append(s.Spent, spent)
	}
	return s, errors.Join(errs[:]...)
}
