package sessions

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// places are where the machines of a backend were at the last look, by sandbox.
type places map[string]seat

// seat is the place of one machine. A sandbox whose machine is another one, which
// we have made, was not moved.
type seat struct{ handle, place string }

// tellMoved records which machines are in another place than at the last look of
// this run, and returns where they are now: whoever has moved them, it was not us.
// One that could not be read in between may be found again somewhere else.
func (m *Manager) tellMoved(ctx context.Context, before places, seen []provisioner.Machine) places {
	now := places{}
	if slices.ContainsFunc(seen, func(mach provisioner.Machine) bool { return mach.Unread }) {
		maps.Copy(now, before)
	}
	for _, mach := range seen {
		if mach.Unread || mach.Spare || mach.Place == "" {
			continue
		}
		is, was := seat{mach.Handle, mach.Place}, before[mach.Sandbox]
		now[mach.Sandbox] = is
		if was.place == "" || was.place == is.place || !provisioner.SameHandle(was.handle, is.handle) {
			continue
		}
		detail := fmt.Sprintf("from %s to %s, but not by AgentLab", was.place, is.place)
		m.Log.Info("machine was moved", "id", mach.Sandbox, "from", was.place, "to", is.place)
		if err := m.Store.Log(ctx, Event{At: m.now(), Sandbox: mach.Sandbox, What: EventMigrate, Detail: detail}); err != nil {
			m.Log.Warn("record that a machine was moved", "id", mach.Sandbox, "err", err)
			now[mach.Sandbox] = was // and tell it with the next look
		}
	}
	return now
}
