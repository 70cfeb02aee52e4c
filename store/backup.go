package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"
)

// Backup writes a copy of the database at path to the new file to, of one
// moment, though a daemon may be using it. What is copied was read and found
// sound; if that fails nothing is left at to.
func Backup(ctx context.Context, path, to string) (err error) {
	if _, err := os.Stat(path); err != nil { // SQLite would make one
		return fmt.Errorf("back up: %w", err)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // SQLite fills an empty file
	if err != nil {
		return fmt.Errorf("back up to: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	if err := f.Close(); err != nil {
		return fmt.Errorf("back up to: %w", err)
	}
	from := pool(path, 1)
	_, err = from.ExecContext(ctx, "VACUUM INTO ?", to)
	if err = errors.Join(err, from.Close()); err != nil {
		return wrap("back up "+path, err)
	}
	return verify(ctx, to)
}

// verify reads the whole of a copy and sees it on the disk.
func verify(ctx context.Context, path string) error {
	db := pool(path, 1)
	if err := errors.Join(check(ctx, db), db.Close()); err != nil {
		return wrap("read back "+path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SetAside moves the database at path away, whatever its condition, and returns
// where to. Nobody may have it open.
func SetAside(path string) (aside string, err error) {
	return moveAside(path, "replaced", time.Now())
}

// PutBack makes the database at aside that of path again; what is at path goes.
func PutBack(aside, path string) error {
	for _, suffix := range suffixes {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return rename(aside, path)
}

// Inherit takes over from the database at path what no machine tells: tokens,
// and which sandboxes have ended though their machines may still be there.
func (db *DB) Inherit(ctx context.Context, path string) (err error) {
	old, err := open(ctx, path) // as a start does, which brings its schema up to date
	if err != nil {
		return wrap("open "+path, err)
	}
	if err := old.Close(); err != nil {
		return err
	}
	conn, err := db.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "ATTACH DATABASE ? AS old", path); err != nil {
		return wrap("attach "+path, err)
	}
	defer func() {
		_, derr := conn.ExecContext(context.WithoutCancel(ctx), "DETACH DATABASE old")
		err = errors.Join(err, derr)
	}()
	return wrap("inherit from "+path, inherit(ctx, conn))
}

func inherit(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	for _, copied := range []string{
		"INSERT INTO tokens (" + tokenColumns + ") SELECT " + tokenColumns + " FROM old.tokens",
		"INSERT INTO sandboxes (" + columns + ") SELECT " + columns + " FROM old.sandboxes WHERE ended_at <> 0 AND state <> 'DESTROYED'",
	} {
		if _, err := tx.ExecContext(ctx, copied); err != nil {
			return err
		}
	}
	return tx.Commit()
}
