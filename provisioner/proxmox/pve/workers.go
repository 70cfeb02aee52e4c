package pve

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// maxWorkers is how many API workers of a node we keep busy at once. It has
// three for all its users (pvedaemon, max_workers 3): one call of ours may hold
// one for seconds, such as one to a silent guest agent, and whoever finds all
// busy may queue at just that one (measured).
const maxWorkers = 2

// workers hands out those of each node.
type workers struct {
	mu    sync.Mutex
	nodes map[string]*semaphore.Weighted
}

// acquire waits for a worker for the request, in the order of asking, if it
// takes one.
func (w *workers) acquire(ctx context.Context, r Request) (release func(), err error) {
	if !r.takesWorker() {
		return func() {}, nil
	}
	node := r.Path[1]
	w.mu.Lock()
	s := w.nodes[node]
	if s == nil {
		if w.nodes == nil {
			w.nodes = map[string]*semaphore.Weighted{}
		}
		s = semaphore.NewWeighted(maxWorkers)
		w.nodes[node] = s
	}
	w.mu.Unlock()
	if err := s.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return func() { s.Release(1) }, nil
}

// takesWorker reports whether pveproxy passes the request on to a worker of the
// node. What it reads itself is not "protected" in the API's schema.
func (r Request) takesWorker() bool {
	if len(r.Path) < 3 || r.Path[0] != "nodes" {
		return false
	}
	return r.Method != "GET" || !slices.Contains([]string{"config", "tasks"}, r.Path[len(r.Path)-1])
}
