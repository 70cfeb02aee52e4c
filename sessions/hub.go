package sessions

import "sync"

// hub wakes those who wait for a change of a sandbox.
type hub struct {
	mu     sync.Mutex
	topics map[string]*topic
}

type topic struct {
	changed chan struct{}
	waiting int
}

// watch returns a channel that is closed at the next change of id. Watch
// first and read the record then, or a change in between is missed.
func (h *hub) watch(id string) (changed <-chan struct{}, leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[id]
	if t == nil {
		t = &topic{changed: make(chan struct{})}
		if h.topics == nil {
			h.topics = map[string]*topic{}
		}
		h.topics[id] = t
	}
	t.waiting++
	return t.changed, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.waiting--; t.waiting == 0 && h.topics[id] == t {
			delete(h.topics, id)
		}
	}
}

// publish wakes all who watch id.
func (h *hub) publish(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[id]; t != nil {
		close(t.changed)
		delete(h.topics, id)
	}
}
