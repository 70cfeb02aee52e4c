package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/internal/durable"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Migrations run in the order of their names; the n-th brings the schema to
// version n. One that was released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// chained is the version from which on events are a chain.
const chained = 6

// upgrade brings the schema of the database at path up to date. One that holds
// something is copied before; kept is the copy, empty if there was nothing to do.
// If the very first step fails, the database is as it was and no copy is left.
func upgrade(ctx context.Context, w *sql.DB, path string) (kept string, err error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return "", err
	}
	version, err := schema(ctx, w)
	switch {
	case err != nil:
		return "", err
	case version > len(names):
		return "", tooNew(path, version, len(names))
	case version > 0 && version < len(names):
		if kept, err = keepVersion(ctx, path, version, time.Now()); err != nil {
			return "", fmt.Errorf("keep a copy before the upgrade from version %d: %w", version, err)
		}
	}
	if err = migrate(ctx, w, names, version); err == nil {
		return kept, nil
	}
	if now, verr := schema(ctx, w); kept != "" && verr == nil && now == version {
		err = errors.Join(err, os.Remove(kept))
	}
	return "", err
}

// schema returns the version of the schema, 0 of an empty database.
func schema(ctx context.Context, w *sql.DB) (version int, err error) {
	if err := w.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}

// roomForCopy says that a copy of the database would not fit beside it. To try would
// take the last of the disk from those who use it.
func roomForCopy(path string) error {
	var need int64
	for _, file := range []string{path, path + "-wal"} {
		info, err := os.Stat(file)
		if err := gone(err); err != nil {
			return err
		}
		if err == nil {
			need += info.Size()
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &disk); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < need {
		const mega = 1 << 20
		return fmt.Errorf("it takes up to %d MB and %d MB are free: %w", need/mega+1, free/mega, sessions.ErrStoreUnavailable)
	}
	return nil
}

// versionOf begins what the name of a copy has after that of the database.
const versionOf = ".version-"

// keepVersion copies the database to a file beside it that tells its version.
func keepVersion(ctx context.Context, path string, version int, now time.Time) (kept string, err error) {
	kept = path + fmt.Sprint(versionOf, version, "-", now.UTC().Format("20060102T150405.000000000Z"))
	draft := path + versionOf + "new" // whole when it has its name
	if err := gone(os.Remove(draft)); err != nil {
		return "", err
	}
	if err := roomForCopy(path); err != nil {
		return "", err
	}
	if err := Backup(ctx, path, draft); err != nil {
		return "", err
	}
	if err := os.Rename(draft, kept); err != nil {
		return "", errors.Join(err, os.Remove(draft))
	}
	return kept, durable.SyncDir(filepath.Dir(kept))
}

// tooNew says what to do with a database that a newer AgentLab has upgraded.
func tooNew(path string, version, known int) error {
	back := "move the file away to begin anew"
	if kept := newestCopy(path, known); kept != "" {
		back = fmt.Sprintf("move the file, with its -wal and -shm, away and put %s in its place, which is from before the upgrade: what happened since is lost then", kept)
	}
	return fmt.Errorf("its schema is version %d and this program knows %d: it was written by a newer AgentLab; run that one, or %s (sandboxes that run are found again)", version, known, back)
}

// newestCopy returns the copy of the latest version, up to known, that there is;
// empty is none.
func newestCopy(path string, known int) string {
	entries, err := os.ReadDir(filepath.Dir(path)) // sorted, so that of one version the last is the newest
	if err != nil {
		return ""
	}
	best, newest := 0, ""
	for _, e := range entries {
		var version int
		name, ours := strings.CutPrefix(e.Name(), filepath.Base(path)+versionOf)
		if _, err := fmt.Sscanf(name, "%d-", &version); ours && err == nil && version >= best && version <= known {
			best, newest = version, filepath.Join(filepath.Dir(path), e.Name())
		}
	}
	return newest
}

// migrate takes the steps after a version, each in a transaction of its own.
func migrate(ctx context.Context, w *sql.DB, names []string, version int) error {
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
