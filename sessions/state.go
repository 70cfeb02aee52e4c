package sessions

import "slices"

// State is where a sandbox stands. The names are the user's.
type State string

// The states of a sandbox.
const (
	Requested    State = "REQUESTED"    // recorded
	Provisioning State = "PROVISIONING" // its machine is being made
	Booting      State = "BOOTING"      // the machine is started
	Ready        State = "READY"        // a command was run in the guest
	Running      State = "RUNNING"      // its owner has used it
	Stopping     State = "STOPPING"     // the machine is being switched off
	Stopped      State = "STOPPED"      // it is off, and its disk is kept
	Starting     State = "STARTING"     // it is being switched on again
	Suspended    State = "SUSPENDED"    // it is held still in memory
	Timeout      State = "TIMEOUT"      // its time was up
	Failed       State = "FAILED"       // it could not be made, or its machine is gone; the reason is kept
	Destroying   State = "DESTROYING"   // it is to be destroyed, and its machine removed
	Destroyed    State = "DESTROYED"    // its machine is gone, too
)

// next holds every legal move. All else about states follows from it.
var next = map[State][]State{
	Requested:    {Provisioning, Timeout, Failed, Destroying},
	Provisioning: {Booting, Timeout, Failed, Destroying},
	Booting:      {Ready, Timeout, Failed, Destroying},
	Ready:        {Running, Stopping, Stopped, Suspended, Timeout, Failed, Destroying}, // STOPPED: not by us
	Running:      {Stopping, Stopped, Suspended, Timeout, Failed, Destroying},
	Stopping:     {Stopped, Timeout, Failed, Destroying},
	Stopped:      {Starting, Ready, Timeout, Failed, Destroying}, // READY: not by us
	Starting:     {Ready, Stopping, Timeout, Failed, Destroying},
	Suspended:    {Ready, Stopping, Stopped, Timeout, Failed, Destroying},
	Timeout:      {Destroying, Destroyed},
	Failed:       {Destroying, Destroyed},
	Destroying:   {Destroyed},
	Destroyed:    {},
}

// CanMove says whether a sandbox may go from s to another state. The store
// asks it in the transaction that changes the state.
func (s State) CanMove(to State) bool { return slices.Contains(next[s], to) }

// Live says that the sandbox has not ended: it is, or will be, of use.
func (s State) Live() bool { return s.CanMove(Timeout) }

// making says that its machine is not yet known to answer.
func (s State) making() bool { return s == Requested || s == Provisioning || s == Booting }

// usable says that commands can be run in it.
func (s State) usable() bool { return s == Ready || s == Running }

// coming says that it will be usable, or over, if one waits.
func (s State) coming() bool { return s.making() || s == Starting }

// off says that its owner wants its machine off, or that it is not on again yet.
func (s State) off() bool { return s == Stopping || s == Stopped || s == Starting }
