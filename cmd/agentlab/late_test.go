package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// A backend that can't be built, such as for want of a key, is built when it
// can be, and until then each call says why it can't.
func TestBackendThatCantBeBuilt(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := "proxmox_backend: shell\nproxmox_ssh: node.invalid\nproxmox_ssh_key: " + filepath.Join(dir, "key") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	in := &installation{paths: config.Paths{Config: file}, log: slog.New(slog.DiscardHandler)}
	p := in.proxmox(nil, provisioner.Key{}, "inst-1")
	for range 2 {
		if _, err := p.List(t.Context()); !errors.Is(err, provisioner.ErrUnavailable) {
			t.Errorf("List: %v", err)
		}
	}
}
