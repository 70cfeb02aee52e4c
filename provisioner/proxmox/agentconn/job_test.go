package agentconn

import (
	"errors"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// That a command can't be another user's is told from that it is missing.
func TestStartErrorNoBecome(t *testing.T) {
	for start, want := range map[string]bool{"become": true, "command": false, "tty": false} {
		err := record{"start": start}.startError(guest.Cmd{Args: []string{"ls"}, User: "bob"})
		if !errors.Is(err, guest.ErrNoCommand) || errors.Is(err, guest.ErrNoBecome) != want {
			t.Errorf("%s: got %v", start, err)
		}
	}
}
