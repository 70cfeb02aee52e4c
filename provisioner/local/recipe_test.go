package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// A recipe changes with what machines are made of, and with nothing else.
func TestRecipe(t *testing.T) {
	bin := t.TempDir()
	path := func(name string) string { return filepath.Join(bin, name) }
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path(name+".new"), []byte(text), 0o755), os.Rename(path(name+".new"), path(name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"runsc", "agentlab-guest", "root.tar"} {
		write(name, "one")
	}
	if err := os.MkdirAll(path("root/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, _ := openTemp(t)
	p.Runsc, p.Guest = path("runsc"), path("agentlab-guest")
	for _, root := range []string{"", path("root.tar"), path("root"), "dir:" + path("root")} {
		spec := testSpec("sb-recipe")
		spec.Root = root
		recipe := func() string {
			t.Helper()
			word, err := p.Recipe(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			return word
		}
		for _, tt := range []struct {
			name    string
			change  func()
			changes bool
		}{
			{"nothing", func() {}, false},
			{"papers-and-limits", func() { spec.Papers.Owner, spec.MemoryMB, spec.Hostname = "another", 512, "another" }, false},
			{"runsc", func() { write("runsc", "two") }, true},
			{"agentlab-guest", func() { write("agentlab-guest", "two") }, true},
			{"platform", func() { p.Platform = map[string]string{"": "ptrace", "ptrace": ""}[p.Platform] }, true},
			{"archive", func() { write("root.tar", "two") }, root == path("root.tar")},
			{"directory", func() { write("root/etc", "two") }, filepath.Base(root) == "root"},
		} {
			before := recipe()
			tt.change()
			if changed := recipe() != before; changed != tt.changes {
				t.Errorf("root %q, %s: it changes: %v, want %v", root, tt.name, changed, tt.changes)
			}
		}
	}
	t.Run("host", func(t *testing.T) {
		spec := testSpec("sb-recipe")
		before, err := p.Recipe(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		p.open.skeleton.dir = t.TempDir() // as an upgrade of the host has another
		if after, err := p.Recipe(t.Context(), spec); err != nil || after == before {
			t.Errorf("with another skeleton: %q, %v, want another than %q", after, err, before)
		}
	})
	p.Runsc = path("missing")
	if _, err := p.Recipe(t.Context(), testSpec("sb-recipe")); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("without runsc: %v", err)
	}
}
