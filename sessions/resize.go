package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Size is what the machine of a sandbox may use. Zero fields are left as they are.
type Size = provisioner.Size

// Resize gives a sandbox that is STOPPED other cores or memory, or more disk, within what
// its profile allows and its owner's quota, and goes on with that when ctx ends. The
// larger memory is recorded all the while, so that the quota holds whatever comes in
// between, and stays if nobody knows what the backend has done; what an error or a
// crash leaves half done is done by repeating it.
//
// Errors: Invalid, Exhausted; Conflict if it is not STOPPED, or its backend can't do it.
func (m *Manager) Resize(ctx context.Context, id string, size Size) (Sandbox, error) {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	if _, err := m.ownLive(ctx, id); err != nil {
		return Sandbox{}, err // before the lock, as in Extend
	}
	unlock, err := m.extend.Lock(ctx, id) // papers and record change in step
	if err != nil {
		return Sandbox{}, err
	}
	defer unlock()
	sb, err := m.ownLive(ctx, id)
	if err != nil {
		return Sandbox{}, err
	}
	r, err := m.mayResize(ctx, sb, size)
	if err != nil {
		return Sandbox{}, err
	}
	quota, most := Quota{MemoryMB: m.quota(who).MemoryMB}, size
	if size.MemoryMB != 0 {
		most.MemoryMB = max(size.MemoryMB, sb.MemoryMB)
	}
	kept, err := m.Store.Resize(ctx, id, most, quota, Change{At: m.now(), By: who.Name})
	if errors.Is(err, ErrOverQuota) {
		return Sandbox{}, m.overMemory(ctx, sb, size, quota)
	}
	if err != nil {
		return Sandbox{}, internal(id, err)
	}
	if kept, err = m.resize(span.Join(m.ctx, ctx), r, sb, kept, size); err != nil {
		return Sandbox{}, &Error{Unavailable, fmt.Sprintf("sandbox %s could not be resized: %s. Try again", id, obstacleOf(id, err)), err}
	}
	m.hub.publish(id)
	return kept, nil
}

// resize has the backend do what is recorded, and records what came of it.
func (m *Manager) resize(ctx context.Context, r provisioner.Resizer, was, kept Sandbox, size Size) (Sandbox, error) {
	limited, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	target := kept
	target.MemoryMB = cmp.Or(size.MemoryMB, kept.MemoryMB)
	err := r.Resize(limited, target.Ref(), m.papers(target), size)
	if err == nil && target.MemoryMB == kept.MemoryMB {
		return kept, nil
	}
	is := Size{MemoryMB: target.MemoryMB}
	if err != nil {
		is = Size{Cores: was.Cores, MemoryMB: kept.MemoryMB, DiskMB: was.DiskMB}
		if errors.Is(err, provisioner.ErrExhausted) { // which is before the memory
			is.MemoryMB = was.MemoryMB
		}
	}
	kept, rerr := m.Store.Resize(ctx, was.ID, is, Quota{}, Change{At: m.now(), By: was.Owner, Reason: reasonOf(err)})
	return kept, errors.Join(err, rerr)
}

// reasonOf is what is recorded of a resize that could not be done.
func reasonOf(err error) string {
	if err != nil {
		return "it could not be done"
	}
	return ""
}

// mayResize returns the ability to resize a sandbox, or why it may not be.
func (m *Manager) mayResize(ctx context.Context, sb Sandbox, size Size) (provisioner.Resizer, error) {
	if err := m.able(ctx, sb); err != nil {
		return nil, err
	}
	p, there := m.ProfileOf(sb)
	r, ok := provisioner.As[provisioner.Resizer](m.Backends[sb.Backend])
	switch {
	case !ok:
		return nil, Errorf(Conflict, "sandbox %s can't be resized: machines of backend %q stay as they were made; create a bigger one", sb.ID, sb.Backend)
	case !there:
		return nil, Errorf(Conflict, "sandbox %s can't be resized: its profile %s, which says how far, is gone; create another sandbox", sb.ID, sb.Profile)
	case size == Size{}:
		return nil, Errorf(Invalid, "nothing is to be changed: give cpu, memory_mb or disk_gb")
	}
	if err := (CreateRequest{Cores: size.Cores, MemoryMB: size.MemoryMB, DiskMB: size.DiskMB}).validate(p); err != nil {
		return nil, err
	}
	if size.DiskMB != 0 && size.DiskMB < sb.DiskMB {
		return nil, Errorf(Invalid, "disk_gb is %.3g, allowed: %.3g or more, which sandbox %s has: a disk can only grow", gigabytes(size.DiskMB), gigabytes(sb.DiskMB), sb.ID)
	}
	if sb.State != Stopped {
		return nil, Errorf(Conflict, "sandbox %s is %s; stop it with stop_sandbox first, resize it, and start it again", sb.ID, sb.State)
	}
	return r, nil
}

// overMemory is what its owner reads of a sandbox that would be too big.
func (m *Manager) overMemory(ctx context.Context, sb Sandbox, size Size, quota Quota) error {
	own, err := m.Store.List(ctx, Query{Owner: sb.Owner, Ending: true})
	if err != nil {
		return internal(sb.ID, err)
	}
	want := sb
	want.MemoryMB = size.MemoryMB - sb.MemoryMB
	return overQuota(quota, want, own, m.now())
}
