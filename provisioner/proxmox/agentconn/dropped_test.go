package agentconn_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// sleepless ends what waits for a minute in the guest, so that the minute is over.
const sleepless = `for f in /proc/[0-9]*; do [ "$(tr '\0' ' ' <$f/cmdline)" = "sleep 60 " ] && kill ${f#/proc/}; done 2>/dev/null; true`

// Of a session that is dropped in the middle of all it can do, nothing stays.
func TestNothingStaysOfADroppedSession(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.dropSession(t)
	// One has ended, and nobody has come to remove it.
	m.inGuest(t, "cd /var/lib/agentlab && mkdir r_ended && echo 999999999 >r_ended/supervisor && touch -d @0 r_ended")
	runs := strings.Fields(m.sh(t, c, `cd /var/lib/agentlab; for r in r_*; do [ $r = "$AGENTLAB_JOB" ] || echo $r; done`))
	if len(runs) < 2 {
		t.Fatalf("commands %q", runs)
	}
	left := `cd /var/lib/agentlab; find /home -name '.agentlab*'; find tmp.test -mindepth 1 -mmin +20 ! -name sweeper; ls -d ` + strings.Join(runs, " ") + ` 2>/dev/null
	for f in /proc/[0-9]*; do [ "$(tr '\0' ' ' <$f/cmdline)" = "sleep 7351 " ] && echo $f; done 2>/dev/null; true`
	if m.sh(t, c, left) == "" {
		t.Error("nothing has stayed that is to be removed")
	}
	m.sh(t, c, "find /var/lib/agentlab/tmp.test -mindepth 1 ! -name sweeper -exec touch -d @0 {} +")
	for end := time.Now().Add(2 * time.Minute); ; {
		m.inGuest(t, sleepless)
		out := m.sh(t, c, left)
		if out == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("there is still %q", out)
		}
	}
}

// dropSession makes a connection that reads, runs and writes, drops it in the
// middle of that, and returns another.
func (m *machine) dropSession(t *testing.T) *agentconn.Conn {
	t.Helper()
	dropped := m.conn(t, "")
	m.sh(t, dropped, "head -c 100000 /dev/urandom >/home/noise")
	r, _, err := dropped.ReadFile(t.Context(), "/home/noise", 0, -1)
	check(t, err)
	check(t, r.Close())
	ended := make(chan error, 2)
	go func() {
		_, err := dropped.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "echo up >/home/up; sleep 7351"}}, guest.Streams{})
		ended <- err
	}()
	content, feed := io.Pipe()
	go func() {
		_, err := dropped.WriteFile(t.Context(), "/home/big", content, guest.WriteOptions{})
		ended <- err
	}()
	_, err = feed.Write(bytes.Repeat([]byte("x"), 4<<20)) // it is being written now
	check(t, err)
	m.awaitFile(t, "/home/up")
	c := m.conn(t, "")
	for m.sh(t, c, "find /home -name '.agentlab*' -size +4000k") == "" {
	}
	check(t, dropped.Close())
	check(t, feed.Close())
	for range cap(ended) {
		if <-ended == nil {
			t.Error("a call of a closed connection succeeds")
		}
	}
	return c
}
