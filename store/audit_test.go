package store_test

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// owned gives a store the key that it returns.
func owned(t *testing.T, db *store.DB) *provisioner.Key {
	t.Helper()
	key, err := provisioner.NewKey(bytes.Repeat([]byte{7}, provisioner.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Belong(t.Context(), "one", key); err != nil {
		t.Fatal(err)
	}
	return &key
}

// happen logs events, the i-th at i hours after noon.
func happen(t *testing.T, db *store.DB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		err := db.Log(t.Context(), sessions.Event{
			At: noon.Add(time.Duration(i) * time.Hour), Sandbox: fmt.Sprint("sb-", i), Principal: "local:1", What: "call",
			From: sessions.Ready, To: sessions.Running, Detail: "ok", Duration: time.Second, Tool: "exec", Arguments: `{"a":1}`,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// audited returns the number of the event that the audit of a database names,
// 0 if it finds nothing.
func audited(t *testing.T, path string, key *provisioner.Key) int64 {
	t.Helper()
	_, err := store.Audit(t.Context(), path, key)
	if b, ok := errors.AsType[*store.Broken](err); ok {
		return b.Seq
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// trail makes a database with the events 3 to 6, after two that were pruned.
func trail(t *testing.T) (path string, key *provisioner.Key) {
	t.Helper()
	db, path := open(t)
	key = owned(t, db)
	happen(t, db, 1, 7)
	if _, err := db.Prune(t.Context(), noon.Add(3*time.Hour), 1000); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path, key
}

// altered returns a copy of a database in which somebody has done something who
// has the file and knows SQL.
func altered(t *testing.T, path string, do func(db *sql.DB) error) string {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "agentlab.db")
	if err := os.WriteFile(to, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	db := store.Pool(to)
	_, err = db.ExecContext(t.Context(), "DROP TRIGGER events_stay; DROP TRIGGER events_last")
	if err := errors.Join(err, do(db), db.Close()); err != nil {
		t.Fatal(err)
	}
	return to
}

// exec is for altered.
func exec(t *testing.T, stmts string) func(db *sql.DB) error {
	return func(db *sql.DB) error {
		_, err := db.ExecContext(t.Context(), stmts)
		return err
	}
}

func TestAuditOfWhatIsWhole(t *testing.T) {
	path, key := trail(t)
	got, err := store.Audit(t.Context(), path, key)
	if err != nil || got.Rows != 4 || got.Removed != 2 || got.Last != 6 || !got.Sealed {
		t.Errorf("Audit: %+v, %v", got, err)
	}
	db := reopen(t, path) // while it is used
	happen(t, db, 7, 8)
	if got, err := store.Audit(t.Context(), path, nil); err != nil || got.Rows != 5 || got.Sealed {
		t.Errorf("Audit without the key: %+v, %v", got, err)
	}
}

// A backup is audited as the database is, and nothing comes to be beside it.
func TestAuditChangesNothing(t *testing.T) {
	path, key := trail(t)
	to := filepath.Join(t.TempDir(), "backup.db")
	if err := store.Backup(t.Context(), path, to); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if seq := audited(t, to, key); seq != 0 {
		t.Errorf("named %d", seq)
	}
	after, err := os.ReadFile(to)
	left, gerr := filepath.Glob(to + "*")
	if err := errors.Join(err, gerr); err != nil || !bytes.Equal(before, after) || len(left) != 1 {
		t.Errorf("changed %v; there are %v; %v", !bytes.Equal(before, after), left, err)
	}
}

// Whatever byte of an event is another, the audit names the event.
func TestAuditNamesEachByte(t *testing.T) {
	path, key := trail(t)
	for seq := int64(3); seq <= 6; seq++ {
		for column, value := range fields(t, path, "events", fmt.Sprint("seq = ", seq)) {
			for i, changed := range flips(value) {
				at := altered(t, path, func(db *sql.DB) error {
					_, err := db.ExecContext(t.Context(), "UPDATE events SET "+column+" = ? WHERE seq = ?", changed, seq)
					return err
				})
				if got := audited(t, at, key); got != seq {
					t.Errorf("event %d, byte %d of %s: named %d", seq, i, column, got)
				}
			}
		}
	}
}

// Nor can the marks of the ends be changed.
func TestAuditOfMarks(t *testing.T) {
	path, key := trail(t)
	for _, place := range []string{"base", "head"} {
		for column, value := range fields(t, path, "chain", "place = '"+place+"'") {
			if column == "place" {
				continue // the other one, or none
			}
			for i, changed := range flips(value) {
				at := altered(t, path, func(db *sql.DB) error {
					_, err := db.ExecContext(t.Context(), "UPDATE chain SET "+column+" = ? WHERE place = ?", changed, place)
					return err
				})
				if audited(t, at, key) == 0 {
					t.Errorf("byte %d of %s of %s: not found", i, column, place)
				}
			}
		}
		if audited(t, altered(t, path, exec(t, "DELETE FROM chain WHERE place = '"+place+"'")), key) == 0 {
			t.Errorf("without %s: not found", place)
		}
	}
}

// fields returns a row by column.
func fields(t *testing.T, path, table, where string) map[string]any {
	t.Helper()
	rows, err := raw(t, path).QueryContext(t.Context(), "SELECT * FROM "+table+" WHERE "+where)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil || !rows.Next() {
		t.Fatalf("no row: %v", err)
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := errors.Join(rows.Scan(into...), rows.Err()); err != nil {
		t.Fatal(err)
	}
	row := map[string]any{}
	for i, c := range columns {
		row[c] = values[i]
	}
	return row
}

// flips returns a value as many times as it has bytes, each time with another one
// changed.
func flips(value any) (all []any) {
	switch v := value.(type) {
	case int64:
		for i := range 8 {
			b := binary.BigEndian.AppendUint64(nil, uint64(v))
			b[i] ^= 0x40
			all = append(all, int64(binary.BigEndian.Uint64(b)))
		}
	case string:
		for i := range len(v) {
			b := []byte(v)
			b[i] ^= 1
			all = append(all, string(b))
		}
	case []byte:
		for i := range v {
			b := bytes.Clone(v)
			b[i] ^= 1
			all = append(all, b)
		}
	}
	return all
}

// copies of an event, for who inserts one.
const another = "INSERT INTO events SELECT %d, time, sandbox, principal, what, from_state, to_state, detail, duration, tool, arguments, hash FROM events WHERE seq = 4;"

func TestAuditNamesRows(t *testing.T) {
	path, key := trail(t)
	for _, tt := range []struct {
		name, stmts string
		want        int64
		says        string
	}{
		{"first gone", "DELETE FROM events WHERE seq = 3", 3, "event 3 is missing"},
		{"one gone", "DELETE FROM events WHERE seq = 4", 4, "event 4 is missing"},
		{"last gone", "DELETE FROM events WHERE seq = 6", 6, "event 6 is missing"},
		{"all gone", "DELETE FROM events", 3, "event 3 is missing"},
		{"two swapped", "UPDATE events SET seq = 99 WHERE seq = 4; UPDATE events SET seq = 4 WHERE seq = 5; UPDATE events SET seq = 5 WHERE seq = 99", 4, "event 4 was changed"},
		{"one inserted at the end", fmt.Sprintf(another, 7), 7, "event 7 was inserted"},
		{"one inserted far beyond", fmt.Sprintf(another, 700), 700, "event 700 was inserted"},
		{"one inserted at the beginning", fmt.Sprintf(another, 2), 2, "event 2 was inserted"},
		{"one inserted between", "UPDATE events SET seq = seq + 100 WHERE seq > 4; UPDATE events SET seq = seq - 99 WHERE seq > 100;" + fmt.Sprintf(another, 5), 5, "event 5 was changed"},
		{"first gone, with a mark", "UPDATE chain SET (seq, hash) = (SELECT seq, hash FROM events WHERE seq = 3) WHERE place = 'base'; DELETE FROM events WHERE seq = 3",
			4, "event 4 is not known to be the oldest"},
		{"last gone, with a mark", "UPDATE chain SET (seq, hash) = (SELECT seq, hash FROM events WHERE seq = 5) WHERE place = 'head'; DELETE FROM events WHERE seq = 6",
			5, "event 5 is not known to be the newest"},
		{"last gone, with an unsealed mark", "UPDATE chain SET (seq, hash, seal) = (SELECT seq, hash, x'' FROM events WHERE seq = 5) WHERE place = 'head'; DELETE FROM events WHERE seq = 6",
			5, "event 5 is not known to be the newest"},
		{"last with another hash, and a mark", "UPDATE events SET hash = zeroblob(32) WHERE seq = 6; UPDATE chain SET hash = zeroblob(32) WHERE place = 'head'", 6, "event 6 was changed"},
	} {
		at := altered(t, path, exec(t, tt.stmts))
		_, err := store.Audit(t.Context(), at, key)
		if got := audited(t, at, key); got != tt.want || !strings.Contains(fmt.Sprint(err), tt.says) {
			t.Errorf("%s: named %d, %v; want %d, %s", tt.name, got, err, tt.want, tt.says)
		}
	}
}

// Who has no key and makes the whole chain anew has changed its end.
func TestAuditOfAChainMadeAnew(t *testing.T) {
	path, key := trail(t)
	at := altered(t, path, exec(t, "UPDATE events SET detail = 'lie' WHERE seq = 4"))
	if err := store.Rechain(t.Context(), at, 2); err != nil {
		t.Fatal(err)
	}
	if got := audited(t, at, nil); got != 0 {
		t.Fatalf("the chain was not made anew: named %d", got)
	}
	if got := audited(t, at, key); got != 6 {
		t.Errorf("named %d, want the newest", got)
	}
}

// What was found out stays so, whatever is appended, removed and sealed after it.
func TestNothingMendsTheTrail(t *testing.T) {
	path, key := trail(t)
	for name, stmts := range map[string]string{
		"changed":                "UPDATE events SET detail = 'lie' WHERE seq = 4",
		"gone":                   "DELETE FROM events WHERE seq = 4",
		"last gone":              "DELETE FROM events WHERE seq = 6",
		"last gone, with a mark": "UPDATE chain SET (seq, hash) = (SELECT seq, hash FROM events WHERE seq = 5) WHERE place = 'head'; DELETE FROM events WHERE seq = 6",
		"no marks":               "DELETE FROM chain",
		"one inserted":           fmt.Sprintf(another, 7),
	} {
		at := altered(t, path, exec(t, stmts))
		db := reopen(t, at)
		owned(t, db)
		happen(t, db, 7, 9)
		if audited(t, at, key) == 0 {
			t.Errorf("%s: not found after more has happened", name)
		}
		if _, err := db.Prune(t.Context(), noon.Add(8*time.Hour), 1000); err != nil {
			t.Fatal(err)
		}
		owned(t, db)
		if audited(t, at, key) == 0 {
			t.Errorf("%s: not found after it was removed", name)
		}
	}
}

// Events are not changed or removed by mistake: the database refuses it.
func TestEventsAreOnlyAppended(t *testing.T) {
	path, key := trail(t)
	for _, stmt := range []string{
		"UPDATE events SET detail = 'lie' WHERE seq = 4", "DELETE FROM events WHERE seq = 6", "DELETE FROM events",
	} {
		if _, err := raw(t, path).ExecContext(t.Context(), stmt); err == nil || !strings.Contains(err.Error(), "events are only") {
			t.Errorf("%s: %v", stmt, err)
		}
	}
	if seq := audited(t, path, key); seq != 0 {
		t.Errorf("named %d", seq)
	}
}

// The events of a database from before they were a chain become one.
func TestOldEventsAreChained(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agentlab.db")
	scripts, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(scripts)
	old := store.Pool(path)
	for _, script := range scripts[:5] {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if err := exec(t, string(text))(old); err != nil {
			t.Fatal(err)
		}
	}
	const rows = 2500 // in batches, with the gap that retention has left
	err = exec(t, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 11 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO events SELECT i, i, 'sb', '', 'create', '', 'REQUESTED', '', 0 FROM n;
		DELETE FROM events WHERE seq BETWEEN 20 AND 29; PRAGMA user_version = 5`, 10+rows+10))(old)
	if err := errors.Join(err, old.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Audit(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), "older AgentLab") {
		t.Errorf("Audit before: %v", err)
	}
	db := reopen(t, path)
	key := owned(t, db)
	happen(t, db, 1, 2)
	if got, err := store.Audit(t.Context(), path, key); err != nil || got.Rows != rows+1 || got.Removed != 10 {
		t.Errorf("Audit: %+v, %v", got, err)
	}
}

// The trail goes on in the database that takes the place of one.
func TestInheritKeepsTheTrail(t *testing.T) {
	path, key := trail(t)
	db := reopen(t, store.Draft(path))
	owned(t, db)
	if err := db.Inherit(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	happen(t, db, 7, 8)
	if got, err := store.Audit(t.Context(), store.Draft(path), key); err != nil || got.Rows != 5 || got.Removed != 2 {
		t.Errorf("Audit: %+v, %v", got, err)
	}
}
