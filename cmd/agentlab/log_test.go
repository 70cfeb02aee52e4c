package main

import (
	"errors"
	"os"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// newLog returns a state directory, and the log in it.
func newLog(t *testing.T) (state, log *os.File) {
	t.Helper()
	state, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	if log, err = openLog(state); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return state, log
}

// A log that has become too long while the daemon runs is put aside, with the one
// before it forgotten, and what is written then is in a new one.
func TestRenewLog(t *testing.T) {
	state, log := newLog(t)
	path := config.At(state, config.LogFile)
	sizes := func(wants ...int64) {
		t.Helper()
		for i, name := range []string{path, path + ".1"} {
			if info, err := os.Stat(name); err != nil || info.Size() != wants[i] {
				t.Errorf("%s: %v, %v, want %d bytes", name, info, err, wants[i])
			}
		}
	}
	for round := range int64(2) {
		if err := log.Truncate(maxLog); err != nil {
			t.Fatal(err)
		}
		if err := renewLog(state, log); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != maxLog {
			t.Errorf("one that is not too long was put aside: %v, %v", info, err)
		}
		if _, err := log.Write(make([]byte, 1+round)); err != nil {
			t.Fatal(err)
		}
		if err := renewLog(state, log); err != nil {
			t.Fatal(err)
		}
		sizes(0, maxLog+1+round)
		if _, err := log.WriteString("more"); err != nil {
			t.Fatal(err)
		}
		sizes(4, maxLog+1+round)
	}
}

// Where no new log can be made, the old one goes on, until one can.
func TestRenewLogLater(t *testing.T) {
	state, log := newLog(t)
	if err := log.Truncate(maxLog + 1); err != nil {
		t.Fatal(err)
	}
	path := config.At(state, config.LogFile)
	if err := errors.Join(os.Rename(path, path+".1"), os.Symlink("nowhere", path)); err != nil { // which is not followed
		t.Fatal(err)
	}
	if err := renewLog(state, log); err == nil {
		t.Error("a log was opened through a link")
	}
	if _, err := log.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() != maxLog+1+4 {
		t.Errorf("what was written meanwhile is lost: %v, %v", info, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := renewLog(state, log); err != nil {
		t.Fatal(err)
	}
	if _, err := log.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 3 {
		t.Errorf("the new log: %v, %v", info, err)
	}
}
