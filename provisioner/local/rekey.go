package local

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
)

// randomBytes is how much is stirred into the random numbers of a guest.
const randomBytes = 32

// Rekey implements [provisioner.Pooler]. The papers come last: until the guest
// has answered its new owner the machine is the pool's, also to whoever has
// nothing but its papers. A guest that was re-keyed and whose papers were not is
// reached by its new keys when that is repeated.
func (p *Provisioner) Rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec, conn guest.Conn) (guest.Conn, error) {
	if conn != nil {
		defer conn.Close()
	}
	next, err := p.rekey(ctx, ref, spec, conn)
	if err != nil {
		return nil, fmt.Errorf("re-key %s: %w", ref.Sandbox, err)
	}
	return next, nil
}

func (p *Provisioner) rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec, conn guest.Conn) (*sshguest.Conn, error) {
	st, err := p.state()
	if err != nil {
		return nil, err
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := p.find(st, ref)
	if err != nil {
		return nil, err
	}
	if err := b.mayBecome(spec); err != nil {
		return nil, err
	}
	var next *sshguest.Conn
	var drafted error
	draft := func() { drafted = p.draft(st, spec.Papers) } // while the guest works
	err = st.step("local rekey guest", func() (err error) {
		next, err = p.rekeyGuest(ctx, st, spec, conn, draft)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, st.dropDraft(ref.Sandbox))
	}
	if drafted == nil {
		drafted = st.nameDraft(ref.Sandbox)
	}
	if drafted != nil {
		return nil, errors.Join(drafted, next.Close())
	}
	return next, nil
}

// mayBecome says why the machine can't be handed over by a spec.
func (b bundle) mayBecome(spec provisioner.Spec) error {
	is, want := b.papers, spec.Papers
	if want.MemoryMB != is.MemoryMB {
		return fmt.Errorf("papers say %d MB of memory, the machine has %d MB: %w", want.MemoryMB, is.MemoryMB, provisioner.ErrInvalid)
	}
	return is.HandOver(want)
}

// rekeyGuest re-keys the guest over conn or, where that is none or broken, over
// a channel with the new keys, or with those from before.
func (p *Provisioner) rekeyGuest(ctx context.Context, st *state, spec provisioner.Spec, conn guest.Conn, meanwhile func()) (*sshguest.Conn, error) {
	id, n := spec.Papers.Sandbox, spec.Papers.Keys
	before, errBefore := p.channel(st, id, n-1)
	keys, err := p.channelKeys(id, n)
	if err := errors.Join(errBefore, err); err != nil {
		return nil, err
	}
	after, errAfter := st.channel(id, keys)
	to, err := p.handover(spec, keys)
	if err := errors.Join(errAfter, err); err != nil {
		return nil, err
	}
	ways := []*sshguest.Conn{sshguest.New(after), sshguest.New(before)}
	defer func() {
		for _, c := range ways {
			_ = c.Close() // it is of no use any more
		}
	}()
	given, ok := guest.As[*sshguest.Conn](conn)
	if ok && (isOf(given, after) || isOf(given, before)) {
		ways = append([]*sshguest.Conn{given}, ways...)
	}
	var errs []error
	for _, c := range ways {
		next, err := c.Rekey(ctx, to, after, meanwhile)
		if err == nil {
			return next, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, guest.ErrUnreachable) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// isOf says whether c is a channel by cfg, and so of its machine.
func isOf(c *sshguest.Conn, cfg sshguest.Config) bool {
	return bytes.Equal(c.HostKey().Marshal(), cfg.HostKey.Marshal())
}

// handover returns what the guest of a machine that is handed over by spec is
// told, whose new keys are those.
func (p *Provisioner) handover(spec provisioner.Spec, keys channelKeys) (guest.Rekey, error) {
	id, n := spec.Papers.Sandbox, spec.Papers.Keys
	machineID, err := p.Key.MachineID(id, n)
	if err != nil {
		return guest.Rekey{}, err
	}
	random := make([]byte, randomBytes)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return guest.Rekey{
		Generation: n,
		HostKey:    keys.host.Seed(),
		ClientKey:  keys.client.Public().(ed25519.PublicKey),
		Hostname:   hostname(spec),
		MachineID:  machineID,
		Random:     random,
	}, nil
}
