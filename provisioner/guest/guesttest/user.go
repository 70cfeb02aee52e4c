package guesttest

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Root runs commands as anybody, if the guest's user namespace has more users
// than one; anybody else only as themselves.
func testUser(t *testing.T, h Harness) {
	as := func(user string) (string, error) {
		var out bytes.Buffer
		cmd := guest.Cmd{Args: []string{"sh", "-c", "id -un; id -ru; id -rg; id -G; echo $USER; sed -n 's/^CapEff:.//p' /proc/self/status"}, Dir: "/", User: user}
		_, err := h.Conn.Run(within(t), cmd, guest.Streams{Stdout: &out, Stderr: &out})
		return out.String(), err
	}
	if got, err := as(strings.TrimSpace(h.sh(t, "id -un"))); err != nil || !strings.HasPrefix(got, h.sh(t, "id -un; id -u")) {
		t.Errorf("as themselves: %q, %v", got, err)
	}
	if h.sh(t, "id -u") != "0\n" {
		_, err := as("root")
		wantErr(t, err, fs.ErrPermission)
		return
	}
	if users := strings.Fields(h.sh(t, "cat /proc/self/uid_map")); len(users) == 3 && users[2] == "1" {
		_, err := as("nobody")
		wantErr(t, err, fs.ErrPermission)
		return
	}
	got, err := as("nobody")
	check(t, err)
	want := "nobody\n" + h.sh(t, "id -u nobody; id -g nobody; id -G nobody") + "nobody\n0000000000000000\n"
	if got != want {
		t.Errorf("as nobody: %q, want %q", got, want)
	}
	p, _, err := h.Conn.Processes().Start(within(t), guest.Cmd{Args: []string{"id", "-un"}, Dir: "/", User: "nobody"}, guest.StartOptions{Wait: patience})
	check(t, err)
	if _, out := h.read(t, p.ID, guest.ReadRequest{Max: 100}); string(out.Both) != "nobody\n" {
		t.Errorf("a process as nobody says %q", out.Both)
	}
}
