package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Rebuild records the sandboxes of all machines of ours that have no record, as
// their papers tell of them, and returns them. Of those that are recorded as being
// made it records the end that the papers tell: they may have been READY long
// since. Nothing else happens to any machine: one that is past its end is left to
// the next Run.
//
// A machine that can't be read now is an Unavailable error, as is a backend:
// what there is of the others is recorded by then.
func (m *Manager) Rebuild(ctx context.Context) (all []Sandbox, err error) {
	m.init()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m.Backends)) {
		found, err := m.rebuild(ctx, name)
		all = append(all, found...)
		if err != nil {
			errs = append(errs, fmt.Errorf("backend %s: %w", name, err))
		}
	}
	return all, errors.Join(errs...)
}

func (m *Manager) rebuild(ctx context.Context, backend string) (found []Sandbox, err error) {
	seen, err := m.look(ctx, m.Backends[backend])
	if err != nil {
		return nil, err
	}
	recorded, err := m.alsoRecorded(ctx, nil, seen)
	if err != nil {
		return nil, err
	}
	for _, mach := range seen {
		if mach.Unread {
			err = errors.Join(err, fmt.Errorf("machine %s can't be read now: %w", mach.Handle, provisioner.ErrUnavailable))
		}
	}
	err = errors.Join(err, m.extended(ctx, recorded, seen))
	for _, a := range plan(recorded, seen, m.now(), m.started, m.MakeTimeout, true) {
		if a.do != doAdopt {
			continue
		}
		a.sb.Backend = backend
		sb, rerr := m.rerecord(ctx, a.sb)
		err = errors.Join(err, rerr)
		if rerr == nil && sb.ID != "" {
			found = append(found, sb)
		}
	}
	return found, err
}

// extended records the ends of what was made, and perhaps extended, since its
// record was written.
func (m *Manager) extended(ctx context.Context, recorded []Sandbox, seen []provisioner.Machine) error {
	machines := sight(seen).machines
	var errs []error
	for _, sb := range recorded {
		mach, there := machines[sb.ID]
		if !there || !mach.Running || !sb.State.making() || mach.Papers.Keys != sb.Keys || mach.Papers.End.Equal(sb.End) {
			continue
		}
		alive := earlier(m.now(), sb.End.Add(-1)) // its end has not come if it was moved before
		if _, err := m.Store.SetEnd(ctx, sb.ID, mach.Papers.End, Change{At: alive, Reason: "as its machine's papers say"}); err != nil {
			errs = append(errs, fmt.Errorf("record the end of %s: %w", sb.ID, err))
		}
	}
	return errors.Join(errs...)
}
