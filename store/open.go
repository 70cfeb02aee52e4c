package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"
)

// errDamaged: the file is not, or no longer, a database.
var errDamaged = errors.New("database file is damaged")

// Open opens the store at path, made anew if there is none. A damaged file is
// moved aside, never deleted, with a warning to log, and a new one is made:
// the reconciler then rebuilds the records of all machines from their papers.
// A file that can't be read for any other reason is an error: it is locked,
// not ours to read, on a full disk, or of a newer schema.
func Open(ctx context.Context, path string, log *slog.Logger) (*DB, error) {
	db, err := open(ctx, path)
	if damaged(err) {
		// One look is not enough to put a file away: look again, from the start.
		db, err = open(ctx, path)
	}
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
	return db, nil
}

// damaged says that SQLite has read the file and found no sound database.
func damaged(err error) bool {
	code := resultCode(err)
	return errors.Is(err, errDamaged) || code == codeCorrupt || code == codeNotADB
}

// check reads the whole structure of the file.
func check(ctx context.Context, w *sql.DB) error {
	var result string
	if err := w.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if result != "ok" {
		return fmt.Errorf("check: %w: %s", errDamaged, strings.TrimSpace(result))
	}
	return nil
}

// suffixes of the files of a database. The write-ahead log goes first: left
// behind, SQLite would play it into another file.
var suffixes = []string{"-wal", "-shm", ""}

// moveAside renames the file and what belongs to it; why is a part of its name.
func moveAside(path, why string, now time.Time) (string, error) {
	aside := path + "." + why + "-" + now.UTC().Format("20060102T150405.000000000Z")
	return aside, rename(path, aside)
}

// rename renames a database.
func rename(from, to string) error {
	for _, suffix := range suffixes {
		err := os.Rename(from+suffix, to+suffix)
		if err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}
