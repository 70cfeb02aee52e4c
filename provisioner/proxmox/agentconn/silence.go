package agentconn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// silence remembers that a guest's agent does not answer. Each call to such an
// agent holds one of the node's API workers for 3 to 5 s.
type silence struct {
	mu  sync.Mutex
	err error // of the last call, if it was not answered
	at  time.Time
}

// note takes how a call ended.
func (s *silence) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.at = nil, time.Now()
	if errors.Is(err, pve.AgentNotRunning) || errors.Is(err, pve.AgentTimeout) {
		s.err = err
	}
}

// since returns the error of a call that was not answered after then, and nil
// if the last one was.
func (s *silence) since(then time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.Before(then) {
		return nil
	}
	return s.err
}

// during is the error of a call that ctx ended, which says so if it was the
// agent that kept us.
func (s *silence) during(ctx context.Context) error {
	if err := s.since(time.Time{}); err != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return ctx.Err()
}

// turn waits for the right to make one call. While the agent is silent such
// calls are made one at a time, to leave a place for other guests, and what one
// finds is the answer of all who waited meanwhile.
func (c *Conn) turn(ctx context.Context) (release func(), err error) {
	began := time.Now()
	acquire := c.cfg.Limiter.Acquire
	if c.silence.since(time.Time{}) != nil {
		acquire = c.cfg.Limiter.AcquireProbe
	}
	if release, err = acquire(ctx, c.cfg.VM.Node); err != nil {
		return nil, c.silence.during(ctx)
	}
	if err := c.silence.since(began); err != nil {
		release()
		return nil, unreachable(err)
	}
	return release, nil
}
