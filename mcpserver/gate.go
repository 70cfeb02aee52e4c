package mcpserver

import "sync"

// gate counts who is inside, and lets nobody more in once it is shut.
type gate struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // closed when it is shut and nobody is inside; nil while open
}

// enter says whether the caller may go in; it must leave then.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.empty != nil {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
	}
}

// shut shuts the gate for good. What it returns is closed when all have left.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.empty = make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
	return g.empty
}
