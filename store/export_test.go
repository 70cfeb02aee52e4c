package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Pool opens the file at path past the store, with the same settings.
func Pool(path string) *sql.DB { return pool(path, 2) }

// Readers are the connections that read.
func Readers(db *DB) *sql.DB { return db.r }

// LimitPages makes SQLite find the disk full when the file has n pages, or is
// as long as it is now.
func LimitPages(t *testing.T, db *DB, n int) {
	t.Helper()
	if _, err := db.w.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
		t.Fatal(err)
	}
}

// MigrateTo makes the database at path, or an older one there, one of an older schema.
func MigrateTo(ctx context.Context, path string, version int) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	w := Pool(path)
	var is int
	if err := w.QueryRowContext(ctx, "PRAGMA user_version").Scan(&is); err != nil {
		return errors.Join(err, w.Close())
	}
	return errors.Join(migrate(ctx, w, names[:version], is), w.Close())
}

// Latest is the version of the schema.
func Latest() int {
	names, _ := fs.Glob(migrations, "migrations/*.sql")
	return len(names)
}

// MoveAside is what Open does with a damaged file.
var MoveAside = moveAside

// Rechain makes the chain after a row anew, as somebody can who has no key.
func Rechain(ctx context.Context, path string, after int64) error {
	w := Pool(path)
	tx, err := w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	m, _, err := scanMark(tx.QueryRowContext(ctx, selectMark, base))
	if err != nil {
		return err
	}
	rows, err := rowsAfter(ctx, tx, after, chainBatch)
	if err != nil {
		return err
	}
	for _, r := range rows {
		m.seq, m.hash = r.Seq, r.chained(m.hash)
		_, uerr := tx.ExecContext(ctx, "UPDATE events SET hash = ? WHERE seq = ?", m.hash, m.seq)
		err = errors.Join(err, uerr)
	}
	_, uerr := tx.ExecContext(ctx, "UPDATE chain SET hash = ? WHERE place = 'head'", m.hash)
	return errors.Join(err, uerr, tx.Commit(), w.Close())
}

// Plan is how SQLite finds what is asked for.
func Plan(t *testing.T, db *DB, q sessions.EventQuery) string {
	t.Helper()
	query, args := eventQuery(q, 1, 2)
	var id, parent, unused int
	var plan string
	if err := db.r.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...).Scan(&id, &parent, &unused, &plan); err != nil {
		t.Fatal(err)
	}
	return plan
}
