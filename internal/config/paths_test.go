package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

func TestLocate(t *testing.T) {
	mine := t.TempDir()
	self, other := os.Geteuid(), os.Geteuid()+1
	if self == 0 {
		self = other // an ordinary user to whom mine belongs is needed below
		if err := os.Chown(mine, self, self); err != nil {
			t.Fatal(err)
		}
		other = self + 1
	}
	const home = "/home/u"
	for _, tt := range []struct {
		name string
		uid  int
		env  map[string]string
		want config.Paths
	}{
		{"user", self, nil,
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: home + "/.local/state/agentlab", Runtime: home + "/.local/state/agentlab/run"}},
		{"user-with-session", self, map[string]string{"XDG_RUNTIME_DIR": mine},
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: home + "/.local/state/agentlab", Runtime: mine + "/agentlab"}},
		{"session-of-another-user", other, map[string]string{"XDG_RUNTIME_DIR": mine},
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: home + "/.local/state/agentlab", Runtime: home + "/.local/state/agentlab/run"}},
		{"all-set", self, map[string]string{"XDG_RUNTIME_DIR": mine, "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"},
			config.Paths{Config: "/c/agentlab/config.yaml", State: "/s/agentlab", Runtime: mine + "/agentlab"}},
		{"relative-is-ignored", self, map[string]string{"XDG_RUNTIME_DIR": ".", "XDG_STATE_HOME": "s", "XDG_CONFIG_HOME": "c"},
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: home + "/.local/state/agentlab", Runtime: home + "/.local/state/agentlab/run"}},
		{"root", 0, map[string]string{"XDG_RUNTIME_DIR": "/run/user/0"},
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: "/var/lib/agentlab", Runtime: "/run/agentlab"}},
		{"root-apart", 0, map[string]string{"XDG_STATE_HOME": "/s"},
			config.Paths{Config: home + "/.config/agentlab/config.yaml", State: "/s/agentlab", Runtime: "/s/agentlab/run"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.Locate("", tt.uid, home, func(k string) string { return tt.env[k] })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(config.Paths{}, "Socket")); diff != "" {
				t.Errorf("Locate (-want +got):\n%s", diff)
			}
		})
	}
}

// Two installations may share a runtime directory and never a socket.
func TestSocketBelongsToTheStateDirectory(t *testing.T) {
	locate := func(state string) string {
		p, err := config.Locate("", 1000, "/home/u", func(k string) string {
			return map[string]string{"XDG_STATE_HOME": state}[k]
		})
		if err != nil {
			t.Fatal(err)
		}
		return p.Socket
	}
	if locate("/a") == locate("/b") || locate("/a") != locate("/a/") {
		t.Errorf("sockets of /a, /b, /a/: %s %s %s", locate("/a"), locate("/b"), locate("/a/"))
	}
}

func TestConfigFileThatWasAskedFor(t *testing.T) {
	got, err := config.Locate("/x/y.yaml", 1000, "/home/u", func(string) string { return "" })
	if err != nil || got.Config != "/x/y.yaml" {
		t.Errorf("Locate = %q, %v", got.Config, err)
	}
	if _, err := config.Locate("", 1000, "", func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "HOME") {
		t.Errorf("without a home: error %v, want one that names HOME", err)
	}
}

func TestOpenDir(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // in the error; empty is none
	}{
		{"missing", func(*testing.T, string) {}, ""},
		{"there", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, ""},
		{"readable-by-others", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o755)) }, ""},
		{"writable-by-group", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); must(t, os.Chmod(p, 0o720)) }, "others may use it"},
		{"writable-by-others", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); must(t, os.Chmod(p, 0o702)) }, "others may use it"},
		{"link", func(t *testing.T, p string) { must(t, os.Symlink(t.TempDir(), p)) }, "symbolic link"},
		{"dangling-link", func(t *testing.T, p string) { must(t, os.Symlink("/nowhere", p)) }, "symbolic link"},
		{"file", func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o600)) }, "want a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agentlab")
			tt.prepare(t, path)
			dir, err := config.OpenDir(path, 0o700)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
			}
			must(t, os.Rename(path, path+".moved"))
			must(t, os.WriteFile(config.At(dir, "x"), nil, 0o600))
			if _, err := os.Stat(path + ".moved/x"); err != nil {
				t.Errorf("At does not follow the open directory: %v", err)
			}
		})
	}
}

func TestOpenDirOfAnotherUser(t *testing.T) {
	path := "/" // an ordinary user does not own it
	if os.Geteuid() == 0 {
		path = t.TempDir()
		must(t, os.Chown(path, 1234, 1234))
	}
	if _, err := config.OpenDir(path, 0o700); err == nil || !strings.Contains(err.Error(), "belongs to user") {
		t.Errorf("error %v, want one that names the owner", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
