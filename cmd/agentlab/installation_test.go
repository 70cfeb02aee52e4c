package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// What the configuration says of sandboxes is what their manager goes by.
func TestConfigurationReachesTheManager(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as a state directory of root is
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte("sandbox_max_calls: 7\nquota_sandboxes: 8\nreconcile_every: 9s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := &installation{
		paths: config.Paths{Config: file, State: filepath.Join(dir, "state")}, level: new(slog.LevelVar),
		log: slog.New(slog.DiscardHandler), turn: make(chan struct{}, 1),
	}
	m, err := in.Manager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.MaxUses != 7 || m.Quota.Sandboxes != 8 || m.ReconcileEvery.Seconds() != 9 {
		t.Errorf("%d calls, %+v, every %v", m.MaxUses, m.Quota, m.ReconcileEvery)
	}
	if m.Watch != nil {
		t.Errorf("watched by %v, though nobody watches", m.Watch)
	}
	if err := in.close(); err != nil {
		t.Error(err)
	}
}
