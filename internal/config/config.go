// Package config is what an operator may set, and where an installation keeps
// its things. Nothing needs to be set: without any file there is the local
// backend, one profile, and directories by the XDG rules.
//
// Decoding is strict. A misspelt key that is silently ignored is a limit that
// does not hold, so it is an error that names the key meant.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Config is the content of config.yaml. The comments of fields with keys, here and
// below, are what docs/configuration.md says of them: see internal/reference.
type Config struct {
	// `debug`, `info`, `warn` or `error`
	LogLevel string `yaml:"log_level"`
	// how long a daemon that was started by a client stays when it has neither sandbox nor client, nor machines made
	// ahead; at least `1s`
	IdleExit time.Duration `yaml:"idle_exit"`
	// how long calls may go on when the daemon ends, while it refuses new ones; more than `0s`, at most `2m`
	Grace time.Duration `yaml:"grace"`
	// how often records are compared with the machines there are, to remove what a crash left; at least `1s`
	ReconcileEvery time.Duration `yaml:"reconcile_every"`
	// the profile of a sandbox that asks for none
	DefaultProfile string `yaml:"default_profile"`

	// sandboxes of one user at a time; `0` is no limit
	QuotaSandboxes int `yaml:"quota_sandboxes"`
	// memory of all sandboxes of one user together in MiB, by their profiles; `0` is no limit
	QuotaMemoryMB int `yaml:"quota_memory_mb"`
	// calls that work in one sandbox at a time, 1 to 10000; a command in the background is none
	SandboxMaxCalls int `yaml:"sandbox_max_calls"`

	// path of gVisor's `runsc`; empty is the one beside `agentlab`, else the one on `PATH`
	LocalRunsc string `yaml:"local_runsc"`
	// path of `agentlab-guest`; empty is as for `local_runsc`
	LocalGuest string `yaml:"local_guest"`
	// gVisor's platform: `systrap`, `kvm` (needs `/dev/kvm`) or `ptrace` (slow)
	LocalPlatform string `yaml:"local_platform"`

	// `IP:PORT` of the loopback, such as `127.0.0.1:9464`, for `/healthz`, `/readyz` and `/metrics`, which
	// docs/metrics.md explains; empty is none
	MetricsListen string `yaml:"metrics_listen"`

	// Traces is where traces are sent.
	Traces Traces `yaml:",inline"`

	// HTTP is how the daemon serves over HTTP.
	HTTP HTTP `yaml:",inline"`

	// OAuth is whose tokens count beside those of the installation.
	OAuth OAuth `yaml:",inline"`

	// Proxmox is how a Proxmox VE is reached.
	Proxmox Proxmox `yaml:",inline"`

	// Profiles are those of the directory profiles beside the file, and the
	// built-in ones that no file replaces. DefaultProfile comes first. One that
	// can't be used has a Problem.
	Profiles []Profile `yaml:"-"`

	read look // what Profiles were read from
}

// Recipes are the profiles as the sessions know them.
func (c Config) Recipes() []sessions.Profile {
	recipes := make([]sessions.Profile, len(c.Profiles))
	for i, p := range c.Profiles {
		recipes[i] = p.Profile
	}
	return recipes
}

// Default returns what holds when nothing is set.
func Default() Config {
	return Config{
		LogLevel:       "info",
		IdleExit:       5 * time.Minute,
		Grace:          5 * time.Second,
		ReconcileEvery: 30 * time.Second,
		DefaultProfile: sessions.BuiltinProfiles()[0].Name,
		QuotaSandboxes: 64,

		SandboxMaxCalls: 128,

		LocalPlatform: "systrap",
		HTTP:          defaultHTTP(),
		Proxmox:       defaultProxmox(),
		Profiles:      builtinProfiles(),
	}
}

// Load reads the file and the profiles beside it. A file that is not there is
// an empty one. The error lists every mistake of the file, each with its line;
// those of profiles are in [sessions.Profile.Problem], see [Config.Broken].
func Load(file string) (Config, error) {
	c := Default()
	data, info, err := readFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	err = decode(file, data, &c)
	if err == nil {
		err = within(file, data, c.Validate())
	}
	if c.Proxmox.APIToken != "" {
		if perr := private(info); perr != nil {
			err = errors.Join(err, fmt.Errorf("%s: it holds proxmox_api_token: %w", file, perr))
		}
	}
	c.read = lookAt(profilesDir(file))
	c.Profiles = c.profiles(file, c.read.files)
	return c, errors.Join(err, c.read.err)
}

// LoadAll is Load for who goes on with none of it as long as a profile is wrong.
func LoadAll(file string) (Config, error) {
	c, err := Load(file)
	return c, errors.Join(err, c.Broken())
}

// Broken returns what is wrong with profiles, nil if nothing is. What is wrong
// with one that others stand on is told once.
func (c Config) Broken() error {
	var told []string
	var errs []error
	for _, p := range c.Profiles {
		if p.Problem != "" && !slices.Contains(told, p.Problem) {
			told = append(told, p.Problem)
			errs = append(errs, errors.New(p.Problem))
		}
	}
	return errors.Join(errs...)
}

const (
	maxSandboxCalls = 10000           // the largest SandboxMaxCalls
	maxGrace        = 2 * time.Minute // no call takes longer
)

// Validate returns every value of the file that can't be, named by its key.
func (c Config) Validate() error {
	var p problems
	p.check(c.LogLevel == "debug" || c.LogLevel == "info" || c.LogLevel == "warn" || c.LogLevel == "error",
		"log_level: got %q, want debug, info, warn or error", c.LogLevel)
	p.check(c.IdleExit >= time.Second, "idle_exit: got %v, want at least 1s", c.IdleExit)
	p.check(c.Grace > 0 && c.Grace <= maxGrace, "grace: got %v, want more than 0s and at most %v", c.Grace, maxGrace)
	p.check(c.ReconcileEvery >= time.Second, "reconcile_every: got %v, want at least 1s", c.ReconcileEvery)
	p.check(c.QuotaSandboxes >= 0, "quota_sandboxes: got %d, want 0 (no limit) or more", c.QuotaSandboxes)
	p.check(c.QuotaMemoryMB >= 0, "quota_memory_mb: got %d, want 0 (no limit) or more", c.QuotaMemoryMB)
	p.check(c.SandboxMaxCalls >= 1 && c.SandboxMaxCalls <= maxSandboxCalls, "sandbox_max_calls: got %d, want 1 to %d", c.SandboxMaxCalls, maxSandboxCalls)
	p.check(slices.Contains([]string{"systrap", "kvm", "ptrace"}, c.LocalPlatform),
		"local_platform: got %q, want systrap, kvm or ptrace", c.LocalPlatform)
	p.check(c.LocalRunsc == "" || filepath.IsAbs(c.LocalRunsc), "local_runsc: got %q, want an absolute path", c.LocalRunsc)
	p.check(c.LocalGuest == "" || filepath.IsAbs(c.LocalGuest), "local_guest: got %q, want an absolute path", c.LocalGuest)
	p.check(c.MetricsListen == "" || loopback(c.MetricsListen),
		"metrics_listen: got %q, want IP:PORT with an IP of the loopback such as 127.0.0.1:9464, since metrics show who does how much", c.MetricsListen)
	c.Traces.validate(&p)
	c.HTTP.validate(&p)
	c.OAuth.validate(&p)
	c.Proxmox.validate(&p)
	return errors.Join(p...)
}

// loopback says whether s is an IP and port that only this machine can reach. A
// name is not: what it stands for can change.
func loopback(s string) bool {
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Addr().IsLoopback()
}

// Level is LogLevel for slog.
func (c Config) Level() slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(c.LogLevel)) != nil {
		return slog.LevelInfo
	}
	return l
}

// problems are the mistakes found so far.
type problems []error

func (p *problems) check(ok bool, format string, args ...any) {
	if !ok {
		for i, got := range args {
			if text, ok := got.(string); ok {
				args[i] = redact.Text(text)
			}
		}
		*p = append(*p, fmt.Errorf(format, args...))
	}
}

// within puts the name of the file before each of the joined errors, and the line
// of the key that it begins with, if that is in the file.
func within(file string, data []byte, err error) error {
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	lines := keyLines(data)
	var errs []error
	for _, e := range all {
		key := firstKey.FindString(e.Error())
		if line, ok := lines[key]; ok {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, line, e))
		} else {
			errs = append(errs, fmt.Errorf("%s: %w", file, e))
		}
	}
	return errors.Join(errs...)
}

// firstKey is the key at the beginning of what is wrong with its value.
var firstKey = regexp.MustCompile(`^[a-z_.]+`)
