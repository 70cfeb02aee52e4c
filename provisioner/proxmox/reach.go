package proxmox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	// defaultNodeTime is what a node may take to answer a question that is asked
	// of many: a node that hangs keeps pveproxy waiting for half a minute.
	defaultNodeTime = 5 * time.Second
	// nodeRest is how long a node that did not answer is asked no such question.
	nodeRest = 30 * time.Second
)

// errSilent: the node does not answer, or did not a moment ago.
var errSilent = errors.New("node does not answer")

// silence remembers the nodes that did not answer.
type silence struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (s *silence) of(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until[node])
}

func (s *silence) note(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	s.until[node] = time.Now().Add(nodeRest)
}

// askNode makes a call that one node of several answers, so that one which
// hangs or is away holds up what concerns the others neither long nor often.
//
// Errors: errSilent; those of ask.
func (p *Provisioner) askNode(ctx context.Context, inv *inventory, node string, ask func(context.Context) error) error {
	if !inv.online(node) || p.silent.of(node) {
		return fmt.Errorf("%s: %w", node, errSilent)
	}
	limited, cancel := context.WithTimeout(ctx, p.nodeTime)
	defer cancel()
	err := ask(limited)
	late := limited.Err() != nil && errors.Is(err, context.DeadlineExceeded)
	if err == nil || ctx.Err() != nil || !late && !errors.Is(err, pve.NodeUnreachable) && !errors.Is(err, pve.Interrupted) {
		return err
	}
	p.silent.note(node)
	p.log.WarnContext(ctx, "a node does not answer", "node", node, "err", err)
	return fmt.Errorf("%s: %w: %w", node, errSilent, err)
}
