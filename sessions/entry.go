package sessions

import (
	"context"
	"slices"
)

// entrant is a create that was let in and does not stand in line yet.
type entrant struct{ backend, owner string }

// room lets one more in if it may stand in line, or if want is of a name that
// its owner has a live sandbox of, which is asked for again and not made. The
// caller calls entered when its sandbox stands in line, or will not.
func (m *Manager) room(ctx context.Context, want Sandbox) error {
	full := m.letIn(want)
	if full == nil || want.Name == "" {
		return full
	}
	live, err := m.Store.List(ctx, Query{Owner: want.Owner})
	if err != nil {
		return internal(want.ID, err)
	}
	if slices.ContainsFunc(live, func(sb Sandbox) bool { return sb.Name == want.Name }) {
		return nil
	}
	return full
}

// letIn counts one more that is about to stand in line, or says that it is full:
// for all, or for those of its owner, who must leave room for others. A burst of
// creates is counted before any of them is recorded.
func (m *Manager) letIn(want Sandbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	free, all, own := m.slots[want.Backend].make.Load(want.Owner)
	for _, e := range m.entering {
		if e.backend == want.Backend {
			all++
		}
		if e == (entrant{want.Backend, want.Owner}) {
			own++
		}
	}
	switch {
	case all >= m.MaxLine+free:
		return Errorf(Exhausted, "%d sandboxes wait to be made, the most that may; try again in a minute", m.MaxLine)
	case own >= m.MaxOwnLine+free:
		return Errorf(Exhausted, "%d sandboxes of yours wait to be made, the most that may of one owner; try again in a minute, when some of them are made, or destroy one", m.MaxOwnLine)
	}
	m.entering[want.ID] = entrant{want.Backend, want.Owner}
	return nil
}

// entered says that a create which was let in stands in line, or never will.
func (m *Manager) entered(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entering, id)
}
