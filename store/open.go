package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// ErrDamaged says that the file is not, or no longer, a database.
var ErrDamaged = errors.New("database file is damaged")

// Open opens the store at path, made anew if there is none. A damaged file is
// moved aside, never deleted, with a warning to log, and a new one is made:
// the reconciler then rebuilds the records of all machines from their papers.
// A file that can't be read for any other reason is an error: it is locked,
// not ours to read, on a full disk, or of a newer schema. One of an older schema is
// copied to a file beside it and upgraded.
func Open(ctx context.Context, path string, log *slog.Logger) (*DB, error) {
	db, err := openTwice(ctx, path)
	if damaged(err) {
		aside, aerr := moveAside(path, "damaged", time.Now())
		if aerr != nil {
			return nil, fmt.Errorf("open store %s: %w; move it aside: %w", path, err, aerr)
		}
		log.Warn("the database was damaged; it is kept aside and a new one begins. Running sandboxes are found again by their machines; what had ended is forgotten", "path", path, "kept", aside, "err", err)
		db, err = open(ctx, path)
	}
	if err != nil {
		return nil, wrap("open store "+path, err)
	}
	if db.kept != "" {
		log.Info("the database was of an older AgentLab and is upgraded; what it was is kept", "path", path, "kept", db.kept)
	}
	return db, nil
}

// openTwice is open of a file that may be damaged: one look is not enough to
// put it away, so that it is looked at again, from the start.
func openTwice(ctx context.Context, path string) (*DB, error) {
	db, err := open(ctx, path)
	if damaged(err) {
		db, err = open(ctx, path)
	}
	return db, err
}

// damaged says that SQLite has read the file and found no sound database.
func damaged(err error) bool {
	code := resultCode(err)
	return errors.Is(err, ErrDamaged) || code == codeCorrupt || code == codeNotADB
}

// check reads the whole structure of the file.
func check(ctx context.Context, w *sql.DB) error {
	var result string
	if err := w.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if result != "ok" {
		return fmt.Errorf("check: %w: %s", ErrDamaged, strings.TrimSpace(result))
	}
	return nil
}
