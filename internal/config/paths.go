package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Paths say where an installation keeps its things.
type Paths struct {
	Config  string // config.yaml; it need not be there. The directory profiles is beside it
	State   string // directory that must outlive a reboot
	Runtime string // directory of the socket
	Socket  string // name of the socket in Runtime
}

// Names in the state directory.
const (
	LockFile     = "agentlab.lock" // held by the daemon for life
	LogFile      = "agentlab.log"  // of a daemon that a client started
	KeyFile      = "instance.key"
	DatabaseFile = "agentlab.db"
	SSHKeyFile   = "ssh.key"         // of the SSH server that the command line is
	SSHKnownFile = "ssh_known_hosts" // with the public half
	MachinesDir  = "local"           // of the local backend
)

// Modes of our directories. Root's machines run as nobody and must be able to
// reach their files below the state directory, though not to list it.
const (
	RuntimeMode   fs.FileMode = 0o700
	userStateMode fs.FileMode = 0o700
	rootStateMode fs.FileMode = 0o711
)

// StateMode is the mode of the state directory.
func StateMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return rootStateMode
	}
	return userStateMode
}

// Locate finds the paths by the XDG base directory rules. Root's are those of
// the system unless XDG_STATE_HOME asks for an installation apart. file is
// the configuration file that was asked for; empty is none.
func Locate(file string, uid int, home string, env func(string) string) (Paths, error) {
	xdg := func(name string, fallback ...string) string {
		if dir := env(name); filepath.IsAbs(dir) { // the rules say to ignore a relative one
			return filepath.Clean(dir)
		}
		return filepath.Join(append([]string{home}, fallback...)...)
	}
	if !filepath.IsAbs(home) {
		return Paths{}, fmt.Errorf("home directory %q: want an absolute path; set HOME", home)
	}
	p := Paths{Config: file}
	if file == "" {
		p.Config = firstThere(filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "agentlab", "config.yaml"), "/etc/agentlab/config.yaml")
	}
	system := uid == 0 && env("XDG_STATE_HOME") == ""
	runtime := env("XDG_RUNTIME_DIR")
	switch {
	case system:
		p.State, p.Runtime = "/var/lib/agentlab", "/run/agentlab"
	case filepath.IsAbs(runtime) && ownDir(runtime, uid):
		p.State, p.Runtime = filepath.Join(xdg("XDG_STATE_HOME", ".local", "state"), "agentlab"), filepath.Join(runtime, "agentlab")
	default: // none, or another user's, as su leaves it
		p.State = filepath.Join(xdg("XDG_STATE_HOME", ".local", "state"), "agentlab")
		p.Runtime = filepath.Join(p.State, "run")
	}
	// Two state directories are two installations, also below one runtime directory.
	p.Socket = fmt.Sprintf("agentlab-%.4x.sock", sha256.Sum256([]byte(p.State)))
	return p, nil
}

// firstThere returns the first of the files that is there, and the very first
// if none is. One that can't be seen counts, so that reading it says why.
func firstThere(files ...string) string {
	for _, f := range files {
		if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
			return f
		}
	}
	return files[0]
}

func ownDir(path string, uid int) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}
