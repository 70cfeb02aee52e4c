package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/durable"
)

func TestWriteNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(durable.WriteNew(path, []byte("first")), durable.SyncDir(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteNew(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != int64(len("first")) {
		t.Errorf("the file is %v, %v; want the first, mode 0600", info, err)
	}
}
