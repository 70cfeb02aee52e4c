package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// secretFile is where the secret of a token that is yet to be made will be. It
// is made before the token: the secret is shown once.
type secretFile struct {
	file *os.File
	kept bool
}

// openSecret makes the file, if there is no token yet; if there is one, a file
// that is named must hold it.
func openSecret(path, tokenID string, exists bool) (*secretFile, error) {
	if exists {
		return nil, holdsToken(path, tokenID)
	}
	if path == "" {
		return nil, errors.New("no file is named for the secret of the token, which Proxmox shows only once: give --token-file")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists and is not overwritten: move it away, or name another file for the secret of the token", path)
	}
	if err != nil {
		return nil, fmt.Errorf("make the file for the secret of the token: %w", err)
	}
	return &secretFile{file: f}, nil
}

// holdsToken returns nil if path is empty or holds this token.
func holdsToken(path, tokenID string) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err == nil && strings.HasPrefix(string(data), tokenID+"=") {
		return nil
	}
	user, name, _ := strings.Cut(tokenID, "!")
	return fmt.Errorf("token %s exists, %s does not hold it, and its secret can't be had again: choose another token name, or run on a node: pvesh delete /access/users/%s/token/%s",
		tokenID, path, user, name)
}

func (s *secretFile) write(token redact.String) error {
	_, err := s.file.WriteString(token.Reveal() + "\n")
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("keep the secret of the token: %w", err)
	}
	s.kept = true
	return nil
}

// close removes the file again if there was no secret for it.
func (s *secretFile) close() {
	if s == nil {
		return
	}
	_ = s.file.Close()
	if !s.kept {
		_ = os.Remove(s.file.Name())
	}
}
