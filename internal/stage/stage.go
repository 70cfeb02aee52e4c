// Package stage puts up an AgentLab installation of its own in a temporary
// directory, gives MCP clients to it, and takes all of it down again. The demo,
// the benchmark and the tests with foreign clients play on it, so it uses the
// built program as a user would and knows nothing of its inside.
package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Stage is one installation. Everything of it lies below Dir.
type Stage struct {
	Dir string
	Env []string // of the programs started on it: this process's, with the XDG directories below Dir
	bin string   // directory of the programs
}

// patience is how long a daemon may take to end by itself.
const patience = 10 * time.Second

// New makes the directories for the agentlab in the directory bin. Nothing is
// started yet. The caller calls Close, also after a failure of what it does.
func New(bin string) (*Stage, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(bin, "agentlab")); err != nil {
		return nil, fmt.Errorf("find agentlab (make build makes it): %w", err)
	}
	dir, err := os.MkdirTemp("", "agentlab-stage-")
	if err != nil {
		return nil, err
	}
	s := &Stage{Dir: dir, bin: bin, Env: environ(dir)}
	if err := s.makeDirs(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// xdg are the directories that agentlab asks the environment for.
func xdg() map[string]string {
	return map[string]string{
		"XDG_CONFIG_HOME": "config",
		"XDG_STATE_HOME":  "state",
		"XDG_DATA_HOME":   "data",
		"XDG_CACHE_HOME":  "cache",
		"XDG_RUNTIME_DIR": "run",
	}
}

func environ(dir string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "XDG_") && !strings.HasPrefix(kv, "AGENTLAB_") {
			env = append(env, kv)
		}
	}
	for name, sub := range xdg() {
		env = append(env, name+"="+filepath.Join(dir, sub))
	}
	return env
}

// makeDirs leaves the way to the state open to search: root's sandboxes run as
// nobody. What they may read there is agentlab's to guard.
func (s *Stage) makeDirs() error {
	if err := os.Chmod(s.Dir, 0o711); err != nil {
		return err
	}
	for _, sub := range xdg() {
		mode := os.FileMode(0o711)
		if sub == "run" {
			mode = 0o700 // as the XDG specification wants it
		}
		if err := os.Mkdir(filepath.Join(s.Dir, sub), mode); err != nil {
			return err
		}
	}
	// An empty file, so that the one in /etc is not looked for.
	if err := os.MkdirAll(s.profiles(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(s.config(), nil, 0o644)
}

func (s *Stage) profiles() string { return filepath.Join(s.Dir, "config", "agentlab", "profiles") }

// Bin returns the path of one of the programs that were built together.
func (s *Stage) Bin(name string) string { return filepath.Join(s.bin, name) }

// AddConfig adds lines to config.yaml.
func (s *Stage) AddConfig(yaml string) error {
	before, err := os.ReadFile(s.config())
	if err != nil {
		return err
	}
	return s.Configure(string(before) + yaml)
}

func (s *Stage) config() string { return filepath.Join(s.profiles(), "..", "config.yaml") }

// Configure writes config.yaml, which may hold a secret.
func (s *Stage) Configure(yaml string) error {
	file := s.config()
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return err
	}
	return os.Chmod(file, 0o600)
}

// AddProfile writes a profile file. The daemon reads them when it starts.
func (s *Stage) AddProfile(name, yaml string) error {
	return os.WriteFile(filepath.Join(s.profiles(), name+".yaml"), []byte(yaml), 0o644)
}

// Close destroys what sandboxes there are, stops the daemon and removes the
// directory. Its error says what was left behind; that is gone too by then.
func (s *Stage) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	errs := []error{s.destroyAll(ctx), s.StopDaemon()}
	left, err := s.processes()
	errs = append(errs, err)
	for _, p := range left {
		errs = append(errs, p.left(time.Second)) // a killed one takes a moment
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}

// destroyAll asks the daemon, if one runs, to destroy every sandbox.
func (s *Stage) destroyAll(ctx context.Context) error {
	pid, err := s.DaemonPID()
	if pid == 0 || err != nil {
		return err
	}
	c, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to clean up: %w", err)
	}
	defer c.Close()
	var list struct {
		Sandboxes []struct {
			ID string `json:"sandbox_id"`
		}
	}
	if _, err := c.Call(ctx, "list_sandboxes", nil, &list); err != nil {
		return err
	}
	var errs []error
	for _, sb := range list.Sandboxes {
		_, err := c.Call(ctx, "destroy", Args{"sandbox_id": sb.ID}, nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// StopDaemon ends the daemon and the bridges as a service manager would. Sandboxes
// stay, and the next client starts another one.
func (s *Stage) StopDaemon() error {
	all, err := s.processes()
	errs := []error{err}
	for _, p := range all {
		if p.Exe == s.Bin("agentlab") {
			errs = append(errs, p.terminate(patience))
		}
	}
	return errors.Join(errs...)
}

// FreeAddress returns an address that a daemon can listen on: nobody else is given
// its port so soon.
func FreeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
