package sessions

// State is where a sandbox stands. The names are the user's.
type State string

// The states of a sandbox.
const (
	Requested    State = "REQUESTED"    // recorded
	Provisioning State = "PROVISIONING" // its machine is being made
	Booting      State = "BOOTING"      // the machine is started
	Ready        State = "READY"        // a command was run in the guest
	Running      State = "RUNNING"      // its owner has used it
	Stopped      State = "STOPPED"
	Suspended    State = "SUSPENDED"
	Timeout      State = "TIMEOUT" // its time was up
	Failed       State = "FAILED"
	Destroying   State = "DESTROYING"
	Destroyed    State = "DESTROYED"
)
