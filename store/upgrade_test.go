package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

const lastUnchained = 5 // version

// older makes a database as a version of AgentLab has left it: a sandbox, what
// happened to it, and a token where there were tokens. Events of a version that
// chains them come from one that does not.
func older(t *testing.T, version int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "agentlab.db")
	if err := store.MigrateTo(t.Context(), path, min(version, lastUnchained)); err != nil {
		t.Fatal(err)
	}
	do(t, path, `INSERT INTO sandboxes (id, name, owner, profile, backend, state, reason, handle, ip, home, os, created_at, ready_at, ends_at, max_end_at, ended_at, cores, memory_mb, disk_mb, network)
		VALUES ('sb-old', 'web', 'alice', 'small', 'local', 'RUNNING', '', 'h', '', '/workspace', 'linux', 1000, 2000, 9000000000000000000, 9000000000000000000, 0, 1, 100, 200, 'none')`)
	for i, what := range []string{"create", "state", "state"} {
		do(t, path, fmt.Sprintf(`INSERT INTO events (time, sandbox, principal, what, from_state, to_state, detail, duration) VALUES (%d, 'sb-old', 'alice', '%s', '', 'READY', '', 0)`, i+1, what))
	}
	if version >= 2 {
		do(t, path, `INSERT INTO tokens VALUES ('tok-1', 'ci', zeroblob(32), 'admin', 0, 0, 1, 9000000000000000000, 0, 0)`)
	}
	if version > lastUnchained {
		if err := store.MigrateTo(t.Context(), path, version); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func do(t *testing.T, path, statement string) {
	t.Helper()
	if _, err := raw(t, path).ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func copies(t *testing.T, path string) []string {
	t.Helper()
	names, err := filepath.Glob(path + ".version-*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A database of each older version is upgraded with all it has, and what it was
// is kept beside it.
func TestUpgrade(t *testing.T) {
	for version := 1; version < store.Latest(); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			path := older(t, version)
			var log bytes.Buffer
			db, err := store.Open(t.Context(), path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			sb, err := db.Sandbox(t.Context(), "sb-old")
			if err != nil || sb.Name != "web" || sb.Owner != "alice" || sb.State != sessions.Running || sb.MemoryMB != 100 || sb.Created != time.Unix(0, 1000).UTC() {
				t.Errorf("sandbox %+v, %v", sb, err)
			}
			events, _, err := db.Events(t.Context(), sessions.EventQuery{Limit: 10})
			if err != nil || len(events) != 3 || events[2].What != "state" || events[0].Principal != "alice" {
				t.Errorf("events %+v, %v", events, err)
			}
			if tokens, err := db.Tokens(t.Context()); err != nil || (len(tokens) == 1) != (version >= 2) {
				t.Errorf("tokens %+v, %v", tokens, err)
			}
			kept := copies(t, path)
			if len(kept) != 1 || !strings.HasPrefix(kept[0], fmt.Sprintf("%s.version-%d-", path, version)) || !strings.Contains(log.String(), kept[0]) {
				t.Fatalf("kept %q, log %s", kept, log.String())
			}
			var was, n int
			old := raw(t, kept[0])
			if err := old.QueryRowContext(t.Context(), "SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM events").Scan(&was, &n); err != nil || was != version || n != 3 {
				t.Errorf("the copy is of version %d with %d events, %v", was, n, err)
			}
			if info, err := os.Stat(kept[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode of the copy %v, %v", info.Mode(), err)
			}
			db.Close()
			reopen(t, path) // there is nothing to do any more
			if again := copies(t, path); len(again) != 1 {
				t.Errorf("opened again it has copies %q", again)
			}
		})
	}
}

// A new database needs no copy.
func TestNoCopyOfNothing(t *testing.T) {
	_, path := open(t)
	if kept := copies(t, path); len(kept) > 0 {
		t.Errorf("kept %q", kept)
	}
}

// Who goes back to an older AgentLab is told how, and it can be done.
func TestDowngrade(t *testing.T) {
	path := older(t, 4)
	db := reopen(t, path)
	db.Close()
	kept := copies(t, path)[0]
	do(t, path, "PRAGMA user_version = 99")
	_, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "version 99") || !strings.Contains(err.Error(), "put "+kept+" in its place") {
		t.Fatalf("Open: %v", err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Rename(kept, path); err != nil {
		t.Fatal(err)
	}
	if sb, err := reopen(t, path).Sandbox(t.Context(), "sb-old"); err != nil || sb.Name != "web" {
		t.Errorf("sandbox %+v, %v", sb, err)
	}
}

// An upgrade that fails leaves the database as it was, however often it is tried,
// and one that can't be copied is not begun.
func TestFailedUpgrade(t *testing.T) {
	path := older(t, 5)
	do(t, path, "CREATE TABLE chain (place TEXT)") // the next step makes one
	for range 3 {
		if _, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "migrate to version 6") {
			t.Fatalf("Open: %v", err)
		}
	}
	if left := copies(t, path); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	do(t, path, "DROP TABLE chain")
	if err := os.MkdirAll(path+".version-new/x", 0o700); err != nil { // where the copy is to be made
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "keep a copy before the upgrade from version 5") {
		t.Fatalf("Open: %v", err)
	}
	var version int
	if err := raw(t, path).QueryRowContext(context.Background(), "PRAGMA user_version").Scan(&version); err != nil || version != 5 {
		t.Errorf("version %d, %v", version, err)
	}
}

// Without room for the copy nothing is written at all.
func TestNoRoomForCopy(t *testing.T) {
	path := older(t, 5)
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &disk); err != nil {
		t.Fatal(err)
	}
	size := int64(disk.Bavail)*disk.Bsize + 1<<30
	if err := os.Truncate(path, size); err != nil { // what a file has beyond its pages SQLite does not read
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if !errors.Is(err, sessions.ErrStoreUnavailable) || !strings.Contains(err.Error(), "MB are free") {
		t.Errorf("Open: %v", err)
	}
	if left, err := filepath.Glob(path + ".version-*"); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}
