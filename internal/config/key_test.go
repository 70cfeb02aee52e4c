package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

func stateDir(t *testing.T) *os.File {
	t.Helper()
	dir, err := config.OpenDir(filepath.Join(t.TempDir(), "state"), 0o700)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestInstanceKeyStays(t *testing.T) {
	dir := stateDir(t)
	// What a start that was killed in the middle left must not be taken for the key.
	must(t, os.WriteFile(filepath.Join(dir.Name(), config.KeyFile+".new"), []byte("half"), 0o600))
	first, err := config.InstanceKey(dir)
	must(t, err)
	again, err := config.InstanceKey(dir)
	must(t, err)
	if !bytes.Equal(first.Reveal(), again.Reveal()) || len(first.Reveal()) != 32 {
		t.Error("the second key is not the first")
	}
	if info, err := os.Stat(filepath.Join(dir.Name(), config.KeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info, err)
	}
	if names, err := os.ReadDir(dir.Name()); err != nil || len(names) != 1 {
		t.Errorf("state directory has %v, %v; want the key only", names, err)
	}
	id, err := config.InstanceID(first)
	must(t, err)
	other, err := config.InstanceKey(stateDir(t))
	must(t, err)
	otherID, err := config.InstanceID(other)
	must(t, err)
	if id == otherID || len(id) != 16 {
		t.Errorf("ids of two installations: %s, %s", id, otherID)
	}
}

// A key is left as it is, whatever is wrong with it.
func TestInstanceKeyIsNeverReplaced(t *testing.T) {
	key := strings.Repeat("k", 32)
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"short", func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("short"), 0o600)) }, "want a file of 32 bytes, got 5"},
		{"empty", func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o600)) }, "got 0"},
		{"long", func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte(key+"\n"), 0o600)) }, "got 33"},
		{"readable", func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte(key), 0o640)) }, "chmod 0600"},
		{"link", func(t *testing.T, p string) {
			must(t, os.WriteFile(p+".real", []byte(key), 0o600))
			must(t, os.Symlink(p+".real", p))
		}, "too many levels of symbolic links"},
		{"directory", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, "want a file of 32 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := stateDir(t)
			path := filepath.Join(dir.Name(), config.KeyFile)
			tt.make(t, path)
			before, _ := os.ReadFile(path) // of a directory there is nothing to compare
			_, err := config.InstanceKey(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one with %q and the path", err, tt.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Errorf("the key file was changed")
			}
		})
	}
}

// A key that is gone from an installation in use must not be made anew.
func TestInstanceKeyThatIsGone(t *testing.T) {
	for _, name := range []string{config.DatabaseFile, config.MachinesDir} {
		t.Run(name, func(t *testing.T) {
			dir := stateDir(t)
			must(t, os.WriteFile(filepath.Join(dir.Name(), name), nil, 0o600))
			if _, err := config.InstanceKey(dir); err == nil || !strings.Contains(err.Error(), "backup") {
				t.Errorf("error %v, want one that asks for the backup", err)
			}
			if _, err := os.Stat(filepath.Join(dir.Name(), config.KeyFile)); !os.IsNotExist(err) {
				t.Errorf("a key was made: %v", err)
			}
		})
	}
}
