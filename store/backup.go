package store

import (
	"context"
	"errors"
	"fmt"
	"os"
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
