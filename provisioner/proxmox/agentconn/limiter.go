package agentconn

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// inFlight is how many agent calls we make at once to one node. It has three
// API workers for all its users (pvedaemon, max_workers 3), and a call to an
// agent that does not answer holds one for 3 to 5 s (measured).
const inFlight = 2

// Limiter bounds the agent calls to each node. All connections and the prober
// of one Proxmox share one; the zero value is ready for use.
type Limiter struct {
	mu    sync.Mutex
	nodes map[string]*semaphore.Weighted
}

// acquire waits for one of the node's places, in the order of asking.
func (l *Limiter) acquire(ctx context.Context, node string) (release func(), err error) {
	l.mu.Lock()
	s := l.nodes[node]
	if s == nil {
		if l.nodes == nil {
			l.nodes = map[string]*semaphore.Weighted{}
		}
		s = semaphore.NewWeighted(inFlight)
		l.nodes[node] = s
	}
	l.mu.Unlock()
	if err := s.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { s.Release(1) }, nil
}
