package config_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// presets are built in. The last two are there if this host has their programs.
var presets = []string{"yolo-ephemeral", "interactive-dev", "agent-python", "agent-node"}

// load returns the profiles of a directory by name.
func load(t *testing.T, files map[string]string) map[string]config.Profile {
	t.Helper()
	c, err := config.LoadAll(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	profiles := map[string]config.Profile{}
	for _, p := range c.Profiles {
		profiles[p.Name] = p
	}
	return profiles
}

// What a file names counts, 0 too; the rest is that of the profile it extends, but
// for the pool; what neither names is the default of what was named.
func TestExtends(t *testing.T) {
	got := load(t, map[string]string{
		"profiles/base.yaml": "description: a base\nbackend: proxmox\ntemplate: debian\nuser: dev\ncores: 2\nttl: 2h\nidle_timeout: 10m\nshell: [zsh, -c]\npool: {size: 3}\n",
		"profiles/big.yaml":  "extends: base\ncores: 8\nidle_timeout: 0s\nshell: [bash, -c]\n",
	})
	big := sessions.Profile{
		Name: "big", Description: "a base", Backend: "proxmox", User: "dev", Cores: 8, TTL: 2 * time.Hour, Shell: []string{"bash", "-c"}, Root: "debian",
	}.WithDefaults()
	want := config.Profile{Profile: big, Extends: "base", Template: "debian", Clone: "linked", Channel: "auto"}
	if diff := cmp.Diff(want, got["big"]); diff != "" {
		t.Errorf("big (-want +got):\n%s", diff)
	}
	if base := got["base"]; base.Shell[0] != "zsh" || base.Pool.Size != 3 || base.Cores != 2 {
		t.Errorf("the base has changed: %+v", base)
	}
}

// What is built in can be extended too, also when it is made of a default of ours.
func TestExtendsBuiltin(t *testing.T) {
	got := load(t, map[string]string{
		"profiles/default.yaml": "memory_mb: 512\n",
		"profiles/mine.yaml":    "extends: yolo-ephemeral\nttl: 20m\n",
		"profiles/other.yaml":   "extends: default\ncores: 1\n",
	})
	mine, other := got["mine"], got["other"]
	if mine.MemoryMB != 512 || mine.TTL != 20*time.Minute || mine.IdleTimeout != 5*time.Minute || mine.Description != got["yolo-ephemeral"].Description {
		t.Errorf("mine is %+v", mine)
	}
	if other.MemoryMB != 512 || other.MaxMemoryMB != 2048 || other.Cores != 1 || other.MaxCores != 4 {
		t.Errorf("other is %+v", other)
	}
}

func TestExtendsMistakes(t *testing.T) {
	for name, tt := range map[string]struct{ base, p, want string }{
		"two-levels": {"extends: default", "extends: base", `p.yaml:1: extends: got "base", which extends "default" itself; want a profile that extends none`},
		"itself":     {"# all defaults", "extends: p", `p.yaml:1: extends: got "p", which extends "p" itself`},
		"unknown":    {"# all defaults", "extends: bass", `p.yaml:1: extends: got "bass", want one of: `},
		"nothing":    {"# all defaults", "extends: [base]", `p.yaml:1: extends: got`},
		"of-backend": {"backend: proxmox\ntemplate: debian", "extends: base\nbackend: local", `p.yaml: template: got "debian", but backend local has no such key`},
		"inherited":  {"max_ttl: 30m", "extends: base\nttl: 45m", `p.yaml:2: ttl is 45m0s, allowed: 1s to 30m0s`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.LoadAll(write(t, map[string]string{"profiles/base.yaml": tt.base, "profiles/p.yaml": tt.p}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %s", err, tt.want)
			}
			if tt.want != "" && err != nil && strings.Contains(err.Error(), "base.yaml") {
				t.Errorf("the base is blamed: %v", err)
			}
		})
	}
	_, err := config.LoadAll(write(t, map[string]string{"profiles/default.yaml": "extends: yolo-ephemeral"}))
	if err == nil || !strings.Contains(err.Error(), `default.yaml:1: extends: got "yolo-ephemeral", want one of: default`) {
		t.Errorf("default that extends what is made of it: %v", err)
	}
}

// A base that can't be read is told once, and not again by who extends it.
func TestExtendsABrokenProfile(t *testing.T) {
	_, err := config.LoadAll(write(t, map[string]string{"profiles/base.yaml": "coresx: 1\ncores: 3", "profiles/p.yaml": "extends: base"}))
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), `base.yaml:1: unknown key "coresx"`) {
		t.Errorf("error %v, want one line, of base.yaml", err)
	}
}

// What is built in works like the default of the operator and allows no more.
func TestPresets(t *testing.T) {
	got := load(t, map[string]string{
		"profiles/default.yaml": "backend: proxmox\ntemplate: debian\nmax_ttl: 2h\nmax_cores: 3\nidle_timeout: 3m\npool: {size: 2}\n",
	})
	for name, ttl := range map[string]time.Duration{"yolo-ephemeral": 15 * time.Minute, "interactive-dev": 2 * time.Hour} {
		p := got[name]
		if p.Backend != "proxmox" || p.Root != "debian" || p.MaxCores != 3 || p.Pool.Size != 0 || p.Extends != "" {
			t.Errorf("%s is %+v", name, p)
		}
		if p.TTL != ttl || p.MaxTTL != 2*time.Hour || p.IdleTimeout != 3*time.Minute {
			t.Errorf("%s lives %v of %v, %v unused", name, p.TTL, p.MaxTTL, p.IdleTimeout)
		}
	}
	if _, ok := got["agent-python"]; ok {
		t.Error("agent-python is promised for a template that may have no python3")
	}
	short := load(t, map[string]string{"profiles/default.yaml": "max_ttl: 2m\n"})["interactive-dev"]
	if short.TTL != 2*time.Minute || short.IdleTimeout > short.TTL {
		t.Errorf("interactive-dev is %+v", short)
	}
	file := load(t, map[string]string{"profiles/yolo-ephemeral.yaml": "ttl: 2m\n"})["yolo-ephemeral"]
	if file.TTL != 2*time.Minute || file.IdleTimeout != 0 {
		t.Errorf("the file of that name does not count: %+v", file)
	}
}

// The two that promise a program are there exactly where it is.
func TestPresetsThatNeedAProgram(t *testing.T) {
	got := load(t, nil)
	for name, program := range map[string]string{"agent-python": "python3", "agent-node": "node"} {
		has := slices.ContainsFunc([]string{"/usr/local/bin/", "/usr/bin/", "/bin/"}, func(dir string) bool {
			_, err := os.Stat(dir + program)
			return err == nil
		})
		if _, ok := got[name]; ok != has {
			t.Errorf("there is %s: %v; this host has %s: %v", name, ok, program, has)
		}
	}
	if _, ok := load(t, map[string]string{"profiles/default.yaml": "root: /srv/root\n"})["agent-python"]; ok {
		t.Error("agent-python is promised for another root")
	}
}

// What is shown of a profile is a file that says the same.
func TestShownProfileIsTheSame(t *testing.T) {
	files := map[string]string{
		"config.yaml":           "proxmox_template: debian\n",
		"profiles/default.yaml": "cores: 3\nmax_procs: 100\nroot: /srv/root\npool: {size: 2, max_age: 30m}\n",
		"profiles/vm.yaml":      "backend: proxmox\nclone: full\nstorage: fast\nuser: dev\nnetwork: internet\nidle_timeout: 90s\n",
		"profiles/small.yaml":   "extends: default\nmemory_mb: 64\n",
	}
	before := load(t, files)
	for name, p := range before {
		text, err := p.YAML()
		if err != nil {
			t.Fatal(err)
		}
		files["profiles/"+name+".yaml"] = string(text)
	}
	after := load(t, files)
	for name, p := range before {
		p.Extends = ""
		before[name] = p
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("profiles (-before +after):\n%s", diff)
	}
}
