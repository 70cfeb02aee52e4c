package guest

// Seed is what agentlab-guest is given when its machine starts: one JSON file,
// SeedFile, in the directory shared with the host, which it reads and removes
// before anything else runs. It then listens on Socket in the same directory.
type Seed struct {
	HostKey    []byte `json:"host_key"`    // ed25519 seed, 32 bytes; the host pins its public half
	ClientKey  []byte `json:"client_key"`  // ed25519 public key, 32 bytes: who may connect
	Session    []byte `json:"session"`     // of package wire, 48 bytes: good once, for who made the machine; nil is none
	Home       string `json:"home"`        // where commands start
	MemoryMB   int    `json:"memory_mb"`   // all processes together; 0 is no limit
	MaxProcs   int    `json:"max_procs"`   // processes and threads; 0 is no limit
	HideShared bool   `json:"hide_shared"` // unmount the shared directory once listening
}

// Names in the directory shared with the host.
const (
	SeedFile = "seed.json"
	Socket   = "ssh.sock"
)
