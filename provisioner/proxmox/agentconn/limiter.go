package agentconn

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// A node has three API workers for all its users (pvedaemon, max_workers 3),
// and a call to an agent that does not answer holds one for 3 to 5 s (measured).
const (
	maxCalls  = 2
	maxProbes = 1
)

// Limiter bounds the agent calls in flight to each node to two. All who call
// agents of one Proxmox share one Limiter; the zero value is ready for use.
type Limiter struct {
	mu    sync.Mutex
	nodes map[string]*places
}

type places struct{ calls, probes *semaphore.Weighted }

func (l *Limiter) of(node string) *places {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.nodes[node]
	if p == nil {
		if l.nodes == nil {
			l.nodes = map[string]*places{}
		}
		p = &places{semaphore.NewWeighted(maxCalls), semaphore.NewWeighted(maxProbes)}
		l.nodes[node] = p
	}
	return p
}

// Acquire waits for the right to make one call to an agent on the node, in the
// order of asking. The error is ctx.Err.
func (l *Limiter) Acquire(ctx context.Context, node string) (release func(), err error) {
	calls := l.of(node).calls
	if err := calls.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { calls.Release(1) }, nil
}

// AcquireProbe is Acquire for a call that may well stay unanswered. Such calls
// are made one at a time, so that one place is left for guests that are up.
func (l *Limiter) AcquireProbe(ctx context.Context, node string) (release func(), err error) {
	p := l.of(node)
	if err := p.probes.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	if err := p.calls.Acquire(ctx, 1); err != nil {
		p.probes.Release(1)
		return nil, err
	}
	return func() {
		p.calls.Release(1)
		p.probes.Release(1)
	}, nil
}
