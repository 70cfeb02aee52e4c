package agentconn_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// intoBusybox makes a guest one that has nothing but busybox.
const intoBusybox = `mkdir /run/busybox && cp "$(command -v busybox)" /run/busybox/busybox && /run/busybox/busybox --install -s /run/busybox &&
for d in /usr/sbin /sbin /bin /usr/bin; do [ -h $d ] || /run/busybox/busybox mount --bind /run/busybox $d || exit 1; done`

// A guest with busybox, such as Alpine Linux, has the same commands and files.
func TestBusybox(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root mounts
	}
	if out, err := exec.Command("../../../.ci/need", "busybox").CombinedOutput(); err != nil {
		t.Fatalf("busybox is needed: %v: %s", err, out)
	}
	m := boot(t, &pvetest.Server{})
	m.inGuest(t, intoBusybox)
	root, c := m.conn(t, ""), m.conn(t, "nobody")
	m.sh(t, root, "mkdir /home/t && chown nobody /home/t && chmod 777 /home")
	if got := m.sh(t, c, "whoami; readlink -f /bin/sh; cd /home/t && mkdir a && ln -s a/fresh dangling && ln -s dangling twice"); got != "nobody\n/run/busybox/busybox\n" {
		t.Errorf("in it: %q", got)
	}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 1<<14)
	_, err := c.WriteFile(t.Context(), "/home/t/twice", bytes.NewReader(big), guest.WriteOptions{})
	check(t, err)
	if got := m.sh(t, c, "cd /home/t; readlink twice; readlink dangling; wc -c <a/fresh; ls -A a"); got != "dangling\na/fresh\n262144\nfresh\n" {
		t.Errorf("written through dangling links: %q", got)
	}
	r, _, err := c.ReadFile(t.Context(), "/home/t/dangling", 0, -1)
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, err)
	if !bytes.Equal(got, big) {
		t.Errorf("%d bytes come back", len(got))
	}
	list, err := c.ListFiles(t.Context(), "/home/t", guest.ListOptions{Depth: 2})
	check(t, err)
	if len(list.Files) != 4 || list.Files[1].Size != int64(len(big)) || !strings.HasSuffix(list.Files[1].Path, "a/fresh") {
		t.Errorf("listed: %+v", list)
	}
	cancelKills(t, m, c, "(setsid sleep 7341 &); sleep 7341")
}

// All of the contract holds there, but for terminals: what they need is named.
func TestContractOnBusybox(t *testing.T) {
	t.Parallel()                          // it mostly waits
	if os.Getuid() != 0 || raceDetector { // only root mounts; the suite nocgo has it, as it has a version of TestContract
		return
	}
	guesttest.Run(t, func(t *testing.T) guesttest.Harness {
		m := boot(t, &pvetest.Server{})
		m.inGuest(t, intoBusybox)
		root := m.conn(t, "")
		m.sh(t, root, "mkdir /home/t /home/full && chown nobody /home/t && (umask 077 && echo secret >/home/denied) && "+
			"mount -t tmpfs -o size=64k,mode=777 tmpfs /home/full")
		return guesttest.Harness{Conn: m.conn(t, "nobody"), Dir: "/home/t", Denied: "/home/denied", Full: "/home/full", Big: 4 << 20, NoTTY: "script"}
	})
}
