package sessions

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// awaitGuest is greet of a guest that may only be slow, and is asked again then: a
// loaded host costs no sandbox.
func (m *Manager) awaitGuest(ctx context.Context, sb Sandbox) error {
	err := m.greet(ctx, sb)
	for ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		m.Log.Warn("a sandbox is slow to answer", "id", sb.ID, "err", err)
		err = m.greet(ctx, sb)
	}
	return err
}

// firstCommand is what a guest must have beside the shell of its profile.
const firstCommand = "true"

// greet runs a command over the channel that will be used: only that shows
// that a sandbox is READY.
func (m *Manager) greet(ctx context.Context, sb Sandbox) error {
	l := m.lines.pin(sb.ID)
	defer m.lines.unpin(sb.ID, l)
	conn, err := m.lines.conn(ctx, l, m.MakeTimeout, m.dial(sb))
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	exit, err := conn.Run(ctx, guest.Cmd{Args: []string{firstCommand}}, guest.Streams{})
	if err != nil {
		return fmt.Errorf("first command: %w", err)
	}
	if exit.Code != 0 {
		return fmt.Errorf("first command: exit code %d", exit.Code)
	}
	return nil
}
