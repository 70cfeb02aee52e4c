package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Inherit takes over from the database at path what no machine tells: events,
// tokens, sandboxes that have ended, which a machine that is still there would bring
// back to life, and those that are being made, whose machine may have no papers
// yet. It brings the schema of that database up to date, as a start does, and
// changes nothing else of it. Nobody may have it open.
//
// Errors: fs.ErrNotExist, ErrDamaged; with any of them nothing was taken over.
func (db *DB) Inherit(ctx context.Context, path string) (err error) {
	if _, err := os.Stat(path); err != nil { // SQLite would make one
		return err
	}
	old, err := openTwice(ctx, path)
	if damaged(err) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
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
	if err := sameInstallation(ctx, tx); err != nil {
		return err
	}
	const untold = "ended_at <> 0 OR state IN ('REQUESTED', 'PROVISIONING', 'BOOTING')"
	for _, copied := range []string{
		"REPLACE INTO chain (place, seq, hash, seal) SELECT place, seq, hash, seal FROM old.chain",
		"INSERT INTO events (" + eventColumns + ") SELECT " + eventColumns + " FROM old.events",
		"INSERT INTO tokens (" + tokenColumns + ") SELECT " + tokenColumns + " FROM old.tokens",
		"INSERT INTO sandboxes (" + columns + ") SELECT " + columns + " FROM old.sandboxes WHERE " + untold,
	} {
		if _, err := tx.ExecContext(ctx, copied); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// sameInstallation returns an error if the old database is of another installation.
func sameInstallation(ctx context.Context, tx *sql.Tx) error {
	own, err := installation(ctx, tx, "installation")
	if err != nil {
		return err
	}
	old, err := installation(ctx, tx, "old.installation")
	if err == nil && own != "" && old != "" && own != old {
		err = notOf(old, own)
	}
	return err
}

// Belong notes the installation whose machines the database is about, by the id
// that its key gives it. It is an error if that is another one: records without
// the key of their machines would all be taken for those of machines that have
// vanished, and with their own key again for those of machines to be removed.
//
// From then on the ends of the chain of events are sealed with the key. It comes
// before all other use of the database.
func (db *DB) Belong(ctx context.Context, id string, key provisioner.Key) (err error) {
	if db.sealer, err = newSealer(key); err != nil {
		return err
	}
	return db.tx(ctx, "look whose the database is", func(tx *sql.Tx) error {
		is, err := installation(ctx, tx, "installation")
		switch {
		case err != nil:
			return err
		case is == "":
			if _, err = tx.ExecContext(ctx, "INSERT INTO installation (id) VALUES (?)", id); err != nil {
				return err
			}
		case is != id:
			return notOf(is, id)
		}
		return db.seal(ctx, tx)
	})
}

// installation returns the id that a table has noted, empty if none.
func installation(ctx context.Context, tx *sql.Tx, table string) (id string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT id FROM "+table).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}

func notOf(database, key string) error {
	return fmt.Errorf("it is of the installation %s, and the instance key is that of %s; nothing was changed: put back, from a backup, the one of them that belongs to the other", database, key)
}
