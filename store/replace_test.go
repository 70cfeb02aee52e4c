package store_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// draft makes what is to replace the database at path, with the sandbox sb-new.
func draft(t *testing.T, path string) {
	t.Helper()
	db := reopen(t, store.Draft(path))
	add(t, db, sandbox("sb-new"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// has returns which of the sandboxes a database has.
func has(t *testing.T, path string, ids ...string) (found []string) {
	t.Helper()
	db := reopen(t, path)
	for _, id := range ids {
		if _, err := db.Sandbox(t.Context(), id); err == nil {
			found = append(found, id)
		} else if !errors.Is(err, sessions.ErrNoRecord) {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return found
}

// files names what is in the directory of path.
func files(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// plain does the steps of a Replace.
func plain(_ string, do func() error) error { return do() }

func TestReplace(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-old"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	draft(t, path)
	aside, err := store.Replace(t.Context(), path, plain)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, path); !slices.Equal(got, []string{filepath.Base(path), filepath.Base(aside)}) {
		t.Errorf("files: %q", got)
	}
	for file, want := range map[string]string{path: "sb-new", aside: "sb-old"} {
		if got := has(t, file, "sb-old", "sb-new"); !slices.Equal(got, []string{want}) {
			t.Errorf("%s has %v, want %s", filepath.Base(file), got, want)
		}
	}
}

func TestReplaceOfNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agentlab.db")
	draft(t, path)
	aside, err := store.Replace(t.Context(), path, plain)
	if err != nil || aside != "" || !slices.Equal(has(t, path, "sb-new"), []string{"sb-new"}) {
		t.Errorf("aside %q, %v", aside, err)
	}
}

// Whichever step fails, the old database is as it was, its log with it.
func TestReplaceThatFailsChangesNothing(t *testing.T) {
	failed := errors.New("failed")
	for _, step := range []string{"store keep aside", "store take away", "store put in place"} {
		for _, side := range []string{"before", "after"} {
			if side == "after" && step == "store put in place" {
				continue // it is done by then
			}
			t.Run(strings.ReplaceAll(step+" "+side, " ", "-"), func(t *testing.T) {
				path := damagedWithLog(t)
				draft(t, path)
				_, err := store.Replace(t.Context(), path, func(name string, do func() error) error {
					if name != step {
						return do()
					}
					if side == "after" {
						return errors.Join(do(), failed)
					}
					return failed
				})
				if !errors.Is(err, failed) {
					t.Fatalf("Replace: %v", err)
				}
				if _, err := store.Tidy(path); err != nil {
					t.Fatal(err)
				}
				untouched(t, path)
			})
		}
	}
}

// damagedWithLog returns the path of a file that is no database and has a log.
func damagedWithLog(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "agentlab.db")
	for suffix, text := range damagedFiles() {
		if err := os.WriteFile(path+suffix, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func damagedFiles() map[string]string {
	return map[string]string{"": strings.Repeat("no database ", 1000), "-wal": "its log"}
}

func untouched(t *testing.T, path string) {
	t.Helper()
	for suffix, want := range damagedFiles() {
		if got, err := os.ReadFile(path + suffix); err != nil || string(got) != want {
			t.Errorf("%s holds %.20q, %v", path+suffix, got, err)
		}
	}
	if got := files(t, path); len(got) != len(damagedFiles()) {
		t.Errorf("files: %q", got)
	}
}

// A process that dies in the middle of a Replace leaves one of the two in force,
// nothing of the old one is lost, and no log is played into another's file.
func TestReplaceCutShort(t *testing.T) {
	type died struct{}
	for name, old := range map[string]func(t *testing.T) string{
		"sound": func(t *testing.T) string {
			db, path := open(t)
			add(t, db, sandbox("sb-old"))
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			return path
		},
		"damaged": damagedWithLog,
	} {
		for _, step := range []string{"store keep aside", "store take away", "store put in place"} {
			if name == "sound" && step == "store take away" {
				continue // it has no log
			}
			t.Run(name+"-"+strings.ReplaceAll(step, " ", "-"), func(t *testing.T) {
				path := old(t)
				before, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				draft(t, path)
				func() {
					defer func() {
						if _, ok := recover().(died); !ok {
							t.Fatal("it came to its end")
						}
					}()
					_, _ = store.Replace(t.Context(), path, func(name string, do func() error) error {
						if err := do(); err != nil || name == step {
							panic(died{})
						}
						return nil
					})
				}()
				if _, err := store.Tidy(path); err != nil {
					t.Fatal(err)
				}
				if slices.Contains(files(t, path), filepath.Base(store.Draft(path))) {
					t.Error("the draft is left")
				}
				db, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				if !kepts(t, path, before) {
					t.Errorf("the old one is nowhere: %q", files(t, path))
				}
				want := []string{"sb-new"}
				switch {
				case step == "store put in place":
				case name == "sound":
					want = []string{"sb-old"}
				default:
					want = nil // a start makes one anew, as of any that is damaged
				}
				if got := has(t, path, "sb-old", "sb-new"); !slices.Equal(got, want) {
					t.Errorf("in force is one with %v, want %v", got, want)
				}
			})
		}
	}
}

// kepts says that one of the files holds what the old database held.
func kepts(t *testing.T, path string, old []byte) bool {
	t.Helper()
	return slices.ContainsFunc(files(t, path), func(name string) bool {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(path), name))
		return err == nil && string(data) == string(old)
	})
}

// What was put aside with its log keeps it, and another's second name stays.
func TestTidyLeavesTheRest(t *testing.T) {
	path := damagedWithLog(t)
	aside, err := store.MoveAside(path, "damaged", noon)
	if err != nil {
		t.Fatal(err)
	}
	db := reopen(t, path)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := store.Tidy(path); err != nil || len(left) > 0 {
		t.Errorf("Tidy: %v, %v", left, err)
	}
	for suffix, want := range damagedFiles() {
		if got, err := os.ReadFile(aside + suffix); err != nil || string(got) != want {
			t.Errorf("aside%s holds %.20q, %v", suffix, got, err)
		}
	}
}

// What can't be read is an error, and only damage is a reason to do without it.
func TestInheritOfNothing(t *testing.T) {
	db, path := open(t)
	_, newer := open(t)
	if _, err := raw(t, newer).ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Inherit(t.Context(), newer); err == nil || errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "newer AgentLab") {
		t.Errorf("of a newer schema: %v", err)
	}
	for name, tt := range map[string]struct {
		from string
		want error
	}{
		"absent":  {filepath.Join(t.TempDir(), "none"), fs.ErrNotExist},
		"damaged": {damagedWithLog(t), store.ErrDamaged},
	} {
		if err := db.Inherit(t.Context(), tt.from); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if tokens, err := db.Tokens(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("tokens %v, %v", tokens, err)
	}
	if _, err := os.Stat(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one was made: %v", err)
	}
}

// A database can be for the machines of one key only, and is taken over by that
// of the same one.
func TestBelong(t *testing.T) {
	old, path := open(t)
	if err := errors.Join(old.Belong(t.Context(), "one", provisioner.Key{}), old.Belong(t.Context(), "one", provisioner.Key{})); err != nil {
		t.Fatal(err)
	}
	add(t, old, sandbox("sb-ending"), sessions.Destroying)
	err := old.Belong(t.Context(), "another", provisioner.Key{})
	if err == nil || !strings.Contains(err.Error(), "installation one, and the instance key is that of another") {
		t.Errorf("Belong: %v", err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	for id, ok := range map[string]bool{"one": true, "another": false} {
		db := reopen(t, filepath.Join(t.TempDir(), id))
		if err := db.Belong(t.Context(), id, provisioner.Key{}); err != nil {
			t.Fatal(err)
		}
		err := db.Inherit(t.Context(), path)
		if ok != (err == nil) {
			t.Errorf("inherited by %s: %v", id, err)
		}
		if _, err := db.Sandbox(t.Context(), "sb-ending"); ok != (err == nil) {
			t.Errorf("record of %s: %v", id, err)
		}
	}
}

// Some things are known to the old database alone: by its papers a machine that
// is to be removed is as good as any other, and one that is about to be made has
// none.
func TestInherit(t *testing.T) {
	old, path := open(t)
	add(t, old, sandbox("sb-live"), sessions.Provisioning, sessions.Booting, sessions.Ready)
	add(t, old, sandbox("sb-making"), sessions.Provisioning)
	add(t, old, sandbox("sb-ending"), sessions.Destroying)
	add(t, old, sandbox("sb-gone"), sessions.Destroying, sessions.Destroyed)
	if err := old.AddToken(t.Context(), token("tok-a", "ci"), "local:0"); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	db := reopen(t, store.Draft(path))
	if err := db.Inherit(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]error{"sb-live": sessions.ErrNoRecord, "sb-making": nil, "sb-ending": nil, "sb-gone": nil} {
		if _, err := db.Sandbox(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
	if tokens, err := db.Tokens(t.Context()); err != nil || len(tokens) != 1 {
		t.Errorf("tokens %v, %v", tokens, err)
	}
}
