package guest

// Seed is what agentlab-guest is given when its machine starts: one JSON file,
// SeedFile, in the directory shared with the host, which it reads and removes
// before anything else runs. It then listens on Socket in the same directory.
type Seed struct {
	HostKey    []byte `json:"host_key"`    // ed25519 seed, 32 bytes; the host pins its public half
	ClientKey  []byte `json:"client_key"`  // ed25519 public key, 32 bytes: who may connect
	Session    []byte `json:"session"`     // of package wire, 48 bytes: good once, for who made the machine; nil is none
	Generation int    `json:"generation"`  // of these keys; see Rekey
	Home       string `json:"home"`        // where commands start
	MemoryMB   int    `json:"memory_mb"`   // all processes together; 0 is no limit
	MaxProcs   int    `json:"max_procs"`   // processes and threads; 0 is no limit
	HideShared bool   `json:"hide_shared"` // unmount the shared directory once listening
	Pooled     bool   `json:"pooled"`      // there will be a Rekey
}

// Rekey is what agentlab-guest is told when its machine becomes another's. From
// then on these keys alone open its channel; all that was open before is cut,
// and the ended processes of before are forgotten. It is refused while any
// command runs.
type Rekey struct {
	Generation int    `json:"generation"` // of the keys: higher than before, or the same with the same keys
	HostKey    []byte `json:"host_key"`   // as in Seed
	ClientKey  []byte `json:"client_key"` // as in Seed
	Session    []byte `json:"session"`    // as in Seed
	Hostname   string `json:"hostname"`
	MachineID  string `json:"machine_id"` // 32 hexadecimal digits, for /etc/machine-id: machine-id(5)
	Random     []byte `json:"random"`     // for the random pool of the guest's kernel: random(4)
}

// Names in the directory shared with the host.
const (
	SeedFile = "seed.json"
	Socket   = "ssh.sock"
)
