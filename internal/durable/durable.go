// Package durable writes to the disk what must be there after the host has lost
// its power: a file is on the disk once its content and its name are.
package durable

import (
	"errors"
	"os"
)

// WriteNew writes a file that was not there, which nobody else can read, and
// sees its content on the disk. If that fails there may be a part of it.
//
// Errors: fs.ErrExist.
func WriteNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// SyncDir sees the names in a directory on the disk.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
