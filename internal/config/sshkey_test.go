package config_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// Clients know the server again, also if many start at once.
func TestSSHKeyStays(t *testing.T) {
	path := stateDir(t).Name()
	known := func(seed []byte) (string, error) { return "agentlab " + hex.EncodeToString(seed), nil }
	keys := make([][]byte, 20)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			dir, err := config.OpenDir(path, 0o700)
			if err == nil {
				defer dir.Close()
				keys[i], err = config.SSHKey(dir, known)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, k := range keys {
		if !bytes.Equal(k, keys[0]) || len(k) != 32 {
			t.Fatalf("keys %x", keys)
		}
	}
	if info, err := os.Stat(filepath.Join(path, config.SSHKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info, err)
	}
	file := filepath.Join(path, config.SSHKnownFile)
	must(t, os.WriteFile(file, []byte("another"), 0o600))
	dir, err := config.OpenDir(path, 0o700)
	must(t, err)
	defer dir.Close()
	_, err = config.SSHKey(dir, known)
	must(t, err)
	if text, err := os.ReadFile(file); string(text) != "agentlab "+hex.EncodeToString(keys[0]) || err != nil {
		t.Errorf("the file of known hosts has %q, %v", text, err)
	}
	if names, err := os.ReadDir(path); err != nil || len(names) != 2 {
		t.Errorf("the directory has %v, %v", names, err)
	}
}

func TestSSHKeyThatIsNone(t *testing.T) {
	dir := stateDir(t)
	path := filepath.Join(dir.Name(), config.SSHKeyFile)
	must(t, os.WriteFile(path, []byte("short"), 0o600))
	if _, err := config.SSHKey(dir, nil); err == nil || !strings.Contains(err.Error(), path+": want a file of 32 bytes, got 5; it may be removed") {
		t.Errorf("error %v", err)
	}
}
