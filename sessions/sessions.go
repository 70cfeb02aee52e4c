// Package sessions is the life of a sandbox: its states, its owner, its end,
// and what keeps the record and the machine in step. It knows no protocol, no
// SQL and no hypervisor: it is given a [Store] and backends.
package sessions

import (
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// idPrefix tells a sandbox's id from a name, and from the ids of other things.
const idPrefix = "sb-"

// Sandbox is what a user sees: an id, an owner, a profile, a state, an end.
type Sandbox struct {
	ID               string // "sb-" and 20 letters and digits: 100 random bits
	Name             string // the owner's name for it; empty if none
	Owner            string // Principal.Name, or [PoolOwner] of a member of a pool
	Profile          string
	Backend          string // name of the backend that makes its machine
	State            State
	Reason           string // why it left the normal way; empty otherwise. Safe to show
	Handle           string // the backend's name for its machine
	IP               string // empty if it has none
	Home             string // where a command starts
	OS               string
	Created          time.Time
	Begun            time.Time // when its turn to be made came; zero as long as it stands in line
	Ready            time.Time // zero until it was READY
	End              time.Time // when it is destroyed
	MaxEnd           time.Time // End never moves past it
	Ended            time.Time // when it left the live states; zero before
	Cores            int
	MemoryMB, DiskMB int
	Network          string
	Recipe           string // what a member of a pool was made from; empty for all others
	Keys             int    // how often it was taken from a pool and re-keyed: 0 or 1
}

// Ref names the sandbox's machine to its backend.
func (s Sandbox) Ref() provisioner.Ref {
	return provisioner.Ref{Sandbox: s.ID, Handle: s.Handle}
}

// over says that the sandbox has ended or is past its end, and so is of no
// more use even if the reaper has not come to it yet.
func (s Sandbox) over(now time.Time) bool { return !s.State.Live() || !now.Before(s.End) }
