package sshboot_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
)

func TestContract(t *testing.T) {
	guesttest.Run(t, func(t *testing.T) guesttest.Harness {
		m := boot(t)
		h := guesttest.Harness{Conn: m.conn(t), Dir: m.home, Break: m.cut, Own: true}
		check(t, run(t, h.Conn, "true"))
		h.PID = m.guestPID(t)
		if os.Getuid() == 0 {
			h.Full = fullDisk(t, m)
			return h
		}
		h.Denied = m.path("denied") // root would be denied nothing
		check(t, os.WriteFile(h.Denied, []byte("secret"), 0o000))
		return h
	})
}

// fullDisk returns a directory of the machine's with room for some 64 kB.
func fullDisk(t *testing.T, m *machine) string {
	t.Helper()
	dir := m.path("full")
	check(t, os.Mkdir(dir, 0o777))
	check(t, exec.Command("mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", dir).Run())
	t.Cleanup(func() { check(t, exec.Command("umount", "-l", dir).Run()) })
	return dir
}
