package sshguest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
)

func TestContract(t *testing.T) {
	guesttest.Run(t, func(t *testing.T) guesttest.Harness {
		uid := os.Getuid()
		if uid == 0 && t.Name() != "TestContract/User" { // root would be denied nothing
			uid = nobody
		}
		m := start(t, uid)
		h := guesttest.Harness{Conn: m.conn(t), Dir: m.home, Break: m.cut, PID: m.pid, Own: true, Denied: filepath.Join(m.dir, "..", "denied")}
		check(t, os.WriteFile(h.Denied, []byte("secret"), 0o000))
		if os.Getuid() == 0 {
			h.Full = fullDisk(t, m)
		}
		return h
	})
}

// fullDisk returns a directory of the guest's with room for some 64 kB.
func fullDisk(t *testing.T, m *machine) string {
	t.Helper()
	dir := filepath.Join(m.home, "..", "full")
	check(t, os.Mkdir(dir, 0o777))
	check(t, exec.Command("mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", dir).Run())
	t.Cleanup(func() { check(t, exec.Command("umount", "-l", dir).Run()) })
	return dir
}
