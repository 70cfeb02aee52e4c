package stage_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

func newStage(t *testing.T) *stage.Stage {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "agentlab"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := stage.New(bin)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func gone(t *testing.T, st *stage.Stage) {
	t.Helper()
	if _, err := os.Stat(st.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", st.Dir, err)
	}
}

func TestCloseRemovesAll(t *testing.T) {
	st := newStage(t)
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	gone(t, st)
}

// TestCloseTellsWhatWasLeft leaves a process that a stage's daemon might.
func TestCloseTellsWhatWasLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(st *stage.Stage) *exec.Cmd
	}{
		{"by-its-arguments", func(st *stage.Stage) *exec.Cmd {
			return exec.CommandContext(t.Context(), "bash", "-c", "echo; exec -a "+st.Dir+"/machine sleep 600")
		}},
		{"by-its-environment", func(st *stage.Stage) *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo; exec sleep 600")
			cmd.Env = st.Env
			return cmd
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := newStage(t)
			cmd := tt.make(st)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil { // it runs by now
				t.Fatal(err)
			}
			if err := st.Close(); err == nil || !strings.Contains(err.Error(), "left behind") {
				t.Errorf("Close: got %v, want what was left behind", err)
			}
			gone(t, st)
			if err := cmd.Wait(); err == nil {
				t.Error("the process ended by itself, want it killed")
			}
		})
	}
}

// A configuration may hold a secret, and agentlab refuses one that others read.
func TestConfigureIsPrivate(t *testing.T) {
	st := newStage(t)
	defer st.Close()
	if err := st.Configure("log_level: debug\n"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(st.Dir, "config", "agentlab", "config.yaml")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v, want mode 0600", file, info, err)
	}
}

func TestNewWithoutPrograms(t *testing.T) {
	if _, err := stage.New(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("New: got %v, want how to get the programs", err)
	}
}
