package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A token for a server elsewhere is read each time, from a file of ours alone.
func TestTokenForAServerElsewhere(t *testing.T) {
	dir := t.TempDir()
	for file, mode := range map[string]os.FileMode{"open": 0o644, "empty": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, file), bytes.Repeat([]byte("x"), int(mode&4)), mode); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{"open": "chmod", "empty": "is empty", "none": "--token-file: "} {
		if token, err := farToken(filepath.Join(dir, file))(); err == nil || token != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", file, err, want)
		}
	}
	file := filepath.Join(dir, "token")
	read := farToken(file)
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if token, err := read(); err != nil || token.Reveal() != want {
			t.Errorf("token %q, error %v", token.Reveal(), err)
		}
	}
	t.Setenv("AGENTLAB_TOKEN", " third\n")
	if token, err := farToken("")(); err != nil || token.Reveal() != "third" {
		t.Errorf("token %q, error %v", token.Reveal(), err)
	}
}
