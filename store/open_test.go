package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

func TestFilesAreTheOwnersOnly(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-1"))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		fi, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(path+suffix), fi.Mode())
		}
	}
}

// What was made otherwise, or is back from a backup, is closed at the next start.
func TestFileIsClosedToOthers(t *testing.T) {
	db, path := open(t)
	if err := errors.Join(db.Close(), os.Chmod(path, 0o664)); err != nil {
		t.Fatal(err)
	}
	reopen(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestReadersDoNotWrite(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"))
	_, err := store.Readers(db).ExecContext(t.Context(), "DELETE FROM sandboxes")
	if err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("error %v, want one of a read-only database", err)
	}
}

func TestPragmas(t *testing.T) {
	_, path := open(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "busy_timeout": "5000", "synchronous": "1", "foreign_keys": "1"} {
		var got string
		if err := raw(t, path).QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s; %v", pragma, got, want, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-1"))
	db.Close()
	if _, err := raw(t, path).ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "version 99") || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("Open: %v", err)
	}
	if got := kept(t, path); got != nil {
		t.Errorf("moved aside: %q", got)
	}
}

// kept lists the files that were moved aside.
func kept(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.Contains(e.Name(), ".damaged-") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestDamagedFileIsKeptAside(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"not-a-database": func([]byte) []byte { return bytes.Repeat([]byte("garbage "), 1000) },
		"overwritten":    func(b []byte) []byte { return append(b[:4096:4096], bytes.Repeat([]byte{0xa5}, len(b)-4096)...) },
		"truncated":      func(b []byte) []byte { return b[:len(b)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			db, path := open(t)
			for i := range 100 {
				add(t, db, sandbox(fmt.Sprintf("sb-%d", i)))
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b = damage(b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+"-wal", []byte("a log that belongs to it"), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			db, err = store.Open(t.Context(), path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if !strings.Contains(log.String(), "damaged") {
				t.Errorf("log: %s", log.String())
			}
			names := kept(t, path)
			i := slices.IndexFunc(names, func(n string) bool { return !strings.HasSuffix(n, "-wal") && !strings.HasSuffix(n, "-shm") })
			if i < 0 {
				t.Fatalf("kept: %q", names)
			}
			if old, err := os.ReadFile(filepath.Join(filepath.Dir(path), names[i])); err != nil || !bytes.Equal(old, b) {
				t.Errorf("the kept file differs from the damaged one: %v", err)
			}
			add(t, db, sandbox("sb-1"))
		})
	}
}

// Nothing but damage may make us put a file away.
func TestUnreadableFileIsNotDamaged(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"locked": func(t *testing.T, path string) {
			w := raw(t, path)
			w.SetMaxOpenConns(1)
			for _, s := range []string{"PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM events"} {
				if _, err := w.ExecContext(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		},
		"directory": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		},
		"no-directory": func(t *testing.T, path string) {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Dir(path), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = errors.Join(os.Remove(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700)) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, path := open(t)
			db.Close()
			spoil(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if db, err := store.Open(ctx, path, slog.New(slog.DiscardHandler)); err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if name != "no-directory" && kept(t, path) != nil {
				t.Errorf("moved aside: %q", kept(t, path))
			}
		})
	}
}

func TestLostFileIsMadeAnew(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-1"))
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := errors.Join(os.Remove(path), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	list, err := reopen(t, path).List(t.Context(), sessions.Query{})
	if err != nil || list != nil {
		t.Errorf("List = %v, %v", list, err)
	}
}

// A full disk must fail the change as a whole, say so, and pass.
func TestFullDisk(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-1"))
	store.LimitPages(t, db, 1)
	var err error
	for i := 0; err == nil && i < 10000; i++ {
		sb := sandbox(fmt.Sprintf("sb-full-%d", i))
		sb.Reason = strings.Repeat("x", 1000)
		_, _, err = db.Add(t.Context(), sb, sessions.Quota{}, at(0))
		if err != nil && len(events(t, path, sb.ID)) != 0 {
			t.Errorf("event of a sandbox that was not added")
		}
	}
	if !errors.Is(err, sessions.ErrStoreUnavailable) {
		t.Fatalf("Add: %v", err)
	}
	if _, err := db.Sandbox(t.Context(), "sb-1"); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	store.LimitPages(t, db, 1<<20)
	add(t, db, sandbox("sb-2"))
}

// The log of a damaged file must not stay behind for the new file to play.
func TestLogGoesAsideWithItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agentlab.db")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.WriteFile(path+suffix, []byte(suffix), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	aside, err := store.MoveAside(path, "damaged", noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if got, err := os.ReadFile(aside + suffix); err != nil || string(got) != suffix {
			t.Errorf("kept %q: %q, %v", suffix, got, err)
		}
		if _, err := os.Stat(path + suffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left behind %q: %v", suffix, err)
		}
	}
}
