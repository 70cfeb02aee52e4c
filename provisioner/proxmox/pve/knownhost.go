package pve

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
)

// OpenSSH returns the shell of the node at addr, host:port, for root with the
// private key in keyFile, which has no passphrase. The node must have one of
// the host keys that are in the file known, of OpenSSH's form, for it.
func OpenSSH(addr, keyFile, known string) (*SSH, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, fmt.Errorf("the private key %s has a passphrase, and nobody is there to type it; make one without: ssh-keygen -t ed25519 -N ''", keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the private key %s: %w", keyFile, err)
	}
	hosts, err := knownhosts.NewDB(known)
	if err != nil {
		return nil, fmt.Errorf("read the known hosts: %w", err)
	}
	check := hosts.HostKeyCallback()
	return &SSH{Addr: addr, Config: &ssh.ClientConfig{
		User: "root",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		// Those that are in the file: the node may have others as well.
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(addr),
		HostKeyCallback: func(host string, remote net.Addr, got ssh.PublicKey) error {
			err := check(host, remote, got)
			switch sum := ssh.FingerprintSHA256(got); {
			case knownhosts.IsHostUnknown(err):
				return fmt.Errorf("its host key %s is not in %s; compare it with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the node, and let ssh add it: ssh -o UserKnownHostsFile=%s root@HOST", sum, known, known)
			case knownhosts.IsHostKeyChanged(err):
				return fmt.Errorf("its host key is now %s and not the one in %s; if it was renewed, replace it there", sum, known)
			}
			return err
		},
	}}, nil
}
