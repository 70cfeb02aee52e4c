//go:build cgo

package store

import (
	"database/sql/driver"
	"errors"

	"github.com/mattn/go-sqlite3"
)

// sqliteDriver is SQLite itself, by way of cgo.
func sqliteDriver() driver.Driver { return &sqlite3.SQLiteDriver{} }

// resultCode returns SQLite's primary result code for err, 0 if it has none.
func resultCode(err error) int {
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		return int(e.Code)
	}
	return 0
}
