package proxmox

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// identity is that of agentconn.
func (p *Provisioner) identity(sandbox string, keys int) (string, error) {
	sum, err := p.mac("proxmox guest", provisioner.OfGeneration(sandbox, keys))
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum[:16]), nil
}

// derive returns the key of a sandbox's machine for a purpose.
func (p *Provisioner) derive(purpose, sandbox string, keys int) (ed25519.PrivateKey, error) {
	seed, err := p.Key.Derive(purpose + " " + provisioner.OfGeneration(sandbox, keys))
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// clientKey returns the key with which we log in to a sandbox's machine.
func (p *Provisioner) clientKey(sandbox string, keys int) (ssh.Signer, error) {
	key, err := p.derive("client", sandbox, keys)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	return signer, nil
}

// clientLine is the line for the public half in a file authorized_keys.
func (p *Provisioner) clientLine(sandbox string, keys int) (string, error) {
	signer, err := p.clientKey(sandbox, keys)
	if err != nil {
		return "", err
	}
	return line(signer.PublicKey()), nil
}

func line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// hostKey returns the host key that the SSH server of a machine gets when it is
// re-keyed: its public half as a line, and the private one as OpenSSH keeps it.
func (p *Provisioner) hostKey(sandbox string, keys int) (public string, private []byte, err error) {
	key, err := p.derive("host", sandbox, keys)
	if err != nil {
		return "", nil, err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return "", nil, fmt.Errorf("host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return "", nil, fmt.Errorf("host key: %w", err)
	}
	return line(signer.PublicKey()), pem.EncodeToMemory(block), nil
}

// login returns the options of a config that cloud-init makes a machine's name and
// the key of its user of.
func (p *Provisioner) login(spec provisioner.Spec) (map[string]string, error) {
	key, err := p.clientLine(spec.Papers.Sandbox, spec.Papers.Keys)
	if err != nil {
		return nil, err
	}
	return map[string]string{"name": hostname(spec), "sshkeys": pve.SSHKeys(key + "\n")}, nil
}
