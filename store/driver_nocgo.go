//go:build !cgo

package store

import (
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// sqliteDriver is SQLite translated to Go, for machines without a C compiler.
func sqliteDriver() driver.Driver { return &sqlite.Driver{} }

// resultCode returns SQLite's primary result code for err, 0 if it has none.
func resultCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff // the rest is the extended code
	}
	return 0
}
