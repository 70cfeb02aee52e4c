package local

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

const testInstance = "inst-1"

func testKey(t testing.TB) provisioner.Key {
	t.Helper()
	k, err := provisioner.NewKey(bytes.Repeat([]byte{1}, provisioner.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testSpec(id string) provisioner.Spec {
	return provisioner.Spec{
		Papers:   provisioner.Papers{Instance: testInstance, Sandbox: id},
		Cores:    1,
		MemoryMB: 256,
		DiskMB:   200,
		MaxProcs: 200,
	}
}

// tempDir returns a directory that nobody can pass to: root's machines run as
// nobody, and testing makes the parent for its owner only.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "state")
}

// openTemp returns a provisioner on a new directory, opened.
func openTemp(t *testing.T) (*Provisioner, *state) {
	t.Helper()
	p := &Provisioner{Dir: tempDir(t), Key: testKey(t), Instance: testInstance}
	st, err := p.state()
	if err != nil {
		t.Fatal(err)
	}
	return p, st
}
