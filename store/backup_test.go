package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// A backup that is made while others write has all that was written before it
// began, and no half of anything.
func TestBackupOfABusyStore(t *testing.T) {
	db, path := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	begun := make(chan struct{})
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			sb := sandbox(fmt.Sprint("sb-", i))
			if _, _, err := db.Add(context.WithoutCancel(ctx), sb, sessions.Quota{}, at(0)); err != nil {
				t.Error(err)
				return
			}
			if i == 50 {
				close(begun)
			}
		}
	})
	<-begun
	to := filepath.Join(t.TempDir(), "copy.db")
	err := store.Backup(t.Context(), path, to)
	cancel()
	writer.Wait()
	if err != nil {
		t.Fatal(err)
	}
	copied := reopen(t, to)
	list, err := copied.List(t.Context(), sessions.Query{})
	if err != nil || len(list) < 51 {
		t.Errorf("%d of at least 51 sandboxes, %v", len(list), err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestBackupThatFailsLeavesNothing(t *testing.T) {
	_, path := open(t)
	dir := t.TempDir()
	to, none, garbage := filepath.Join(dir, "to"), filepath.Join(dir, "none"), filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{none, garbage} {
		if err := store.Backup(t.Context(), from, to); err == nil {
			t.Errorf("%s was backed up", from)
		}
		for _, path := range []string{to, none} {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if err := store.Backup(t.Context(), path, garbage); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	if info, err := os.Stat(garbage); err != nil || info.Size() != 12000 {
		t.Errorf("it was written to: %v, %v", info, err)
	}
}
