package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// Migrations run in the order of their names; the n-th brings the schema to
// version n. One that was released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// chained is the version from which on events are a chain.
const chained = 6

// migrate brings the schema up to date, each step in a transaction of its own.
func migrate(ctx context.Context, w *sql.DB) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := w.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > len(names) {
		return fmt.Errorf("its schema is version %d and this program knows %d: it was written by a newer AgentLab; run that one, or move the file away to begin anew (sandboxes that run are found again)", version, len(names))
	}
	for i := version; i < len(names); i++ {
		if err := step(ctx, w, names[i], i+1); err != nil {
			return fmt.Errorf("migrate to version %d: %w", i+1, err)
		}
	}
	return nil
}

func step(ctx context.Context, w *sql.DB, name string, version int) error {
	script, err := migrations.ReadFile(name)
	if err != nil {
		return err
	}
	tx, err := w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, string(script)); err != nil {
		return err
	}
	if version == chained {
		if err := chainAll(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}
