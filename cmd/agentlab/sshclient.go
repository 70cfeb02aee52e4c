package main

import (
	"crypto/ed25519"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/sshd"
	"github.com/agentlab-mcp/agentlab/internal/config"
)

// placeVariables are those by which an installation is found. An editor may have
// none of what a shell has.
var placeVariables = []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "AGENTLAB_CONFIG"}

// self implements [cli.Host.Self].
func (h *host) self(cmd *cobra.Command) ([]string, error) {
	if h.far.URL != "" {
		return nil, errNoFarTerminal
	}
	path, err := os.Executable()
	if err != nil {
		return nil, fail(exitFailed, fmt.Errorf("find this program: %w", err))
	}
	var words []string
	for _, name := range placeVariables {
		if value := os.Getenv(name); value != "" {
			words = append(words, name+"="+value)
		}
	}
	if len(words) > 0 {
		words = append([]string{"env"}, words...)
	}
	words = append(words, path)
	if cmd.Flag("config").Changed {
		paths, err := h.locate()
		if err != nil {
			return nil, err
		}
		words = append(words, "--config", paths.Config)
	}
	return words, nil
}

// sshKey implements [cli.Host.SSHKey].
func (h *host) sshKey(name string) (key ed25519.PrivateKey, known string, err error) {
	paths, err := h.locate()
	if err != nil {
		return nil, "", fail(exitFailed, err)
	}
	dir, err := config.OpenDir(paths.State, config.StateMode())
	if err != nil {
		return nil, "", fail(exitUnsafe, err)
	}
	defer func() { _ = dir.Close() }()
	known = dir.Name() + "/" + config.SSHKnownFile
	_, err = config.SSHKey(dir, func(seed []byte) (string, error) {
		key = ed25519.NewKeyFromSeed(seed)
		return sshd.KnownHost(name, key)
	})
	return key, known, fail(exitFailed, err)
}
