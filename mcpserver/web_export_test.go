package mcpserver

import (
	"context"
	"net"

	"golang.org/x/time/rate"
)

// Web is a server on one HTTP listener, whose tables a test can see.
type Web struct{ *web }

// NewWeb returns one that does not listen yet.
func NewWeb(s *Server, h HTTP) Web {
	s.once.Do(s.build)
	return Web{newWeb(s, h)}
}

// ServeOn serves all who connect to ln until ctx ends.
func (w Web) ServeOn(ctx context.Context, ln net.Listener) error { return w.serveOn(ctx, ln) }

// Sweep forgets what is not used any more, as the server does from time to time.
func (w Web) Sweep() { w.sweep() }

// Pace are the turns of a principal's requests.
func (w Web) Pace(principal string) *rate.Limiter {
	share := w.shares.of(principal)
	defer share.letGo()
	return share.pace
}

// EndSessions ends all sessions.
func (w Web) EndSessions() { w.sessions.endAll() }

// Left returns how many sessions and principals it remembers.
func (w Web) Left() (sessions, principals int) {
	w.sessions.mu.Lock()
	defer w.sessions.mu.Unlock()
	w.shares.mu.Lock()
	defer w.shares.mu.Unlock()
	return len(w.sessions.byID), len(w.shares.byName)
}

// Routes returns the patterns of all that is served.
func (w Web) Routes() []string {
	var all []string
	for _, rt := range w.routes() {
		all = append(all, rt.pattern)
	}
	return all
}

// Lasting returns how many streams there are, and resources that are looked at.
func (w Web) Lasting() (streams, looks int) {
	w.shares.mu.Lock()
	defer w.shares.mu.Unlock()
	for _, sh := range w.shares.byName {
		sh.mu.Lock()
		streams, looks = streams+sh.heard, looks+sh.looks
		sh.mu.Unlock()
	}
	return streams, looks
}

// Forgive forgets who has shown tokens that are none.
func (w Web) Forgive() {
	w.strikes.mu.Lock()
	defer w.strikes.mu.Unlock()
	clear(w.strikes.byAddr)
}
