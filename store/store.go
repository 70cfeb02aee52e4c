// Package store keeps sandboxes, tokens and events in one SQLite file. It
// decides nothing: it makes sure that what [sessions] and auth decided happens
// as a whole, its event included, or not at all.
//
// The file is the only state of AgentLab and may be lost: machines carry their
// own papers, from which their records are rebuilt. Tokens are lost with it,
// which lets nobody in.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// DB is an open store. It may be used from many goroutines at once, and by one
// process at a time.
type DB struct {
	w *sql.DB // one connection: SQLite has one writer, and a queue in Go is better than its busy loop
	r *sql.DB // read-only, so that long lists don't keep writers waiting

	byID *sql.Stmt // of r

	event, mark, setMark *sql.Stmt // of w

	kept    string // the copy from before it was upgraded just now; empty if it was not
	changes changes
	sealer  sealer // of the ends of the chain of events; see Belong
}

var _ sessions.Store = (*DB)(nil)

// readers is how many connections read at once.
const readers = 4

// Close closes the file.
func (db *DB) Close() error { return errors.Join(db.r.Close(), db.w.Close()) }

// open opens the file at path as it is, checks it and brings its schema up to
// date.
func open(ctx context.Context, path string) (*DB, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite gives its other files the same mode
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, err
	}
	db := &DB{w: pool(path, 1), r: pool(path, readers, "PRAGMA query_only = 1")}
	if err := db.prepare(ctx, path); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (db *DB) prepare(ctx context.Context, path string) error {
	if err := check(ctx, db.w); err != nil {
		return err
	}
	if _, err := db.w.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return fmt.Errorf("switch to WAL: %w", err)
	}
	var err error
	if db.kept, err = upgrade(ctx, db.w, path); err != nil {
		return err
	}
	if db.byID, err = db.r.PrepareContext(ctx, "SELECT "+columns+" FROM sandboxes WHERE id = ?"); err != nil {
		return err
	}
	if db.event, err = db.w.PrepareContext(ctx, insertEvent); err != nil {
		return err
	}
	if db.mark, err = db.w.PrepareContext(ctx, selectMark); err != nil {
		return err
	}
	db.setMark, err = db.w.PrepareContext(ctx, putMark)
	return err
}

// options of a connection. To parse a statement takes as long as to execute it, so
// each connection keeps those that it has parsed, where the driver can.
const options = "_txlock=immediate&_stmt_cache_size=64"

// pool returns connections to the file at path, all of them set up alike.
func pool(path string, size int, pragmas ...string) *sql.DB {
	return connections(path, options, size, append([]string{
		"PRAGMA busy_timeout = 5000",
		"PRAGMA synchronous = NORMAL", // with WAL: a power failure may cost the last changes, never the file
		"PRAGMA foreign_keys = 1",
	}, pragmas...))
}

func connections(path, query string, size int, pragmas []string) *sql.DB {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: query}
	db := sql.OpenDB(connector{dsn.String(), pragmas})
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

// connector opens connections and runs pragmas on each, in the same way
// whatever the driver.
type connector struct {
	dsn     string
	pragmas []string
}

// Driver returns the driver of the connections.
func (c connector) Driver() driver.Driver { return sqliteDriver() }

// Connect opens a connection.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Driver().Open(c.dsn)
	if err != nil {
		return nil, err
	}
	for _, p := range c.pragmas {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, p, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p, err), conn.Close())
		}
	}
	return conn, nil
}

// SQLite's result codes that mean something to us.
const (
	codePerm       = 3
	codeBusy       = 5
	codeLocked     = 6
	codeReadonly   = 8
	codeIO         = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeConstraint = 19
	codeNotADB     = 26
)

// wrap says what was being done and marks what may work again later.
func wrap(doing string, err error) error {
	switch resultCode(err) {
	case codePerm, codeBusy, codeLocked, codeReadonly, codeIO, codeFull, codeCantOpen:
		return fmt.Errorf("%s: %w: %w", doing, sessions.ErrStoreUnavailable, err)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// tx runs f in one transaction of the writer.
func (db *DB) tx(ctx context.Context, doing string, f func(tx *sql.Tx) error) error {
	tx, err := db.w.BeginTx(ctx, nil)
	if err != nil {
		return wrap(doing, err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // fails where SQLite has rolled back by itself
		return wrap(doing, err)
	}
	err = tx.Commit()
	db.changes.publish()
	return wrap(doing, err)
}
