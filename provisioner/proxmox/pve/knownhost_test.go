package pve_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// keyFile writes a private key of the node's user.
func (n *sshNode) keyFile(t *testing.T, passphrase string) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n.user, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "key", string(pem.EncodeToMemory(block)))
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenSSH(t *testing.T) {
	n := newSSHNode(t)
	key := n.keyFile(t, "")
	for _, tt := range []struct {
		name, known string
		kind        pve.Kind
		want        string
	}{
		{"known", knownhosts.Line([]string{n.addr}, n.hostKey.PublicKey()), "", ""},
		{"unknown", "", pve.Untrusted, "ssh-keygen -lf"},
		{"changed", knownhosts.Line([]string{n.addr}, newSigner(t).PublicKey()), pve.Untrusted, "if it was renewed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shell, err := pve.OpenSSH(n.addr, key, writeFile(t, "known_hosts", tt.known+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			defer shell.Close()
			out, err := shell.Run(t.Context(), "echo there")
			if kindOf(err) != tt.kind {
				t.Fatalf("error %v (%q), want %q", err, kindOf(err), tt.kind)
			}
			if err == nil && string(out.Stdout) != "there\n" || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v, want %q", out.Stdout, err, tt.want)
			}
		})
	}
}

func TestOpenSSHWithoutAKey(t *testing.T) {
	n := newSSHNode(t)
	known := writeFile(t, "known_hosts", "")
	for name, tt := range map[string]struct{ key, known, want string }{
		"no-file":    {"/nowhere/key", known, "open /nowhere/key"},
		"no-key":     {known, known, "read the private key " + known},
		"passphrase": {n.keyFile(t, "secret"), known, "ssh-keygen -t ed25519 -N ''"},
		"no-known":   {n.keyFile(t, ""), "/nowhere/known", "open /nowhere/known"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := pve.OpenSSH(n.addr, tt.key, tt.known); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("OpenSSH: %v, want %q", err, tt.want)
			}
		})
	}
}
