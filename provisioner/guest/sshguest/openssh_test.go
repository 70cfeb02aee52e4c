package sshguest_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// A client that nobody here wrote must get along with agentlab-guest.
func TestOpenSSH(t *testing.T) {
	for _, tool := range []string{"ssh", "sftp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs the OpenSSH client: %v", err)
		}
	}
	m := start(t, os.Getuid())
	conn := m.conn(t)
	if _, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{}); err != nil {
		t.Fatal(err) // it listens now
	}
	block, err := ssh.MarshalPrivateKey(m.client, "")
	check(t, err)
	key := filepath.Join(m.home, "key")
	check(t, os.WriteFile(key, pem.EncodeToMemory(block), 0o600))
	known := filepath.Join(m.home, "known_hosts")
	check(t, os.WriteFile(known, append([]byte("box "), ssh.MarshalAuthorizedKey(m.host)...), 0o600))
	options := []string{
		"-F", "none", "-i", key, "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
		"-o", "ProxyCommand=" + os.Args[0] + " -proxy=" + filepath.Join(m.dir, guest.Socket), "-o", "BatchMode=yes",
	}
	client := func(tool, stdin string, args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), tool, append(options, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatalf("%s %q: %v", tool, args, err)
		}
		return out.String() + errOut.String(), cmd.ProcessState.ExitCode()
	}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		out         string
		code        int
	}{
		{"exec", "in", []string{"box", "cat; echo err >&2; exit 7"}, "inerr\n", 7},
		{"signal", "", []string{"box", "kill -KILL $$"}, "", 255},
		{"shell", "echo $((6*7)); exit 3\n", []string{"-T", "box"}, "42\n", 3},
		{"terminal", "", []string{"-tt", "box", "tty >/dev/null && echo yes"}, "yes\r\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, code := client("ssh", tt.stdin, tt.args...)
			if !strings.HasPrefix(out, tt.out) || code != tt.code {
				t.Errorf("exit %d, output %q", code, out)
			}
		})
	}
	t.Run("sftp", func(t *testing.T) {
		check(t, os.WriteFile(filepath.Join(m.home, "up"), bytes.Repeat([]byte("sftp"), 1<<18), 0o600))
		out, code := client("sftp", "cd "+m.home+"\nput "+m.home+"/up there\nget there "+m.home+"/back\n", "-b", "-", "box")
		if code != 0 {
			t.Fatalf("sftp: exit %d, %s", code, out)
		}
		back, err := os.ReadFile(filepath.Join(m.home, "back"))
		check(t, err)
		if len(back) != 1<<20 {
			t.Errorf("%d bytes came back", len(back))
		}
	})
	t.Run("wrong_key", func(t *testing.T) {
		other := start(t, os.Getuid())
		other.dir = m.dir
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := other.conn(t).Run(ctx, guest.Cmd{Args: []string{"true"}}, guest.Streams{}); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("another key is let in: %v", err)
		}
	})
}

// Idle, agentlab-guest takes at most 8 MB, also after some work.
func TestIdleMemory(t *testing.T) {
	m := start(t, os.Getuid())
	conn := m.conn(t)
	for range 20 {
		if _, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(m.pid) + "/status")
	check(t, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	check(t, err)
	t.Logf("idle: %d kB", kb)
	if kb > 8<<10 {
		t.Errorf("agentlab-guest takes %d kB", kb)
	}
}
