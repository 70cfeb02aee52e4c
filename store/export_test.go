package store

import (
	"database/sql"
	"fmt"
	"testing"
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

// MoveAside is what Open does with a damaged file.
var MoveAside = moveAside
