package mcpserver

import (
	"sync"
	"time"
)

// maxSessions is how many sessions a principal may have; the one that was not
// used for the longest time gives way to another. Until 2025-11-25 clients
// open them and many never close them.
const maxSessions = 1000

// sessionTable holds the clients that are known by an id that they send with
// each request. A session belongs to the principal who opened it: for all
// others there is none of that id.
type sessionTable struct {
	ttl time.Duration // a session that is not used for so long ends

	mu   sync.Mutex
	byID map[string]*session
}

// session is a client between its requests.
type session struct {
	*conn
	owner string // name of a principal
	users int    // requests and streams, guarded by sessionTable.mu like used
	used  time.Time
}

// add makes c a session of the owner's.
func (t *sessionTable) add(c *conn, owner string) {
	t.mu.Lock()
	if t.byID == nil {
		t.byID = map[string]*session{}
	}
	n, oldest := 0, (*session)(nil)
	for _, s := range t.byID {
		if s.owner != owner {
			continue
		}
		n++
		if s.users == 0 && (oldest == nil || s.used.Before(oldest.used)) {
			oldest = s
		}
	}
	if n >= maxSessions && oldest != nil {
		delete(t.byID, oldest.id)
	} else {
		oldest = nil
	}
	t.byID[c.id] = &session{conn: c, owner: owner, used: time.Now()}
	t.mu.Unlock()
	if oldest != nil {
		oldest.close()
	}
}

// len is how many there are.
func (t *sessionTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// use returns a session of the owner's, which does not end for want of use
// until done is called. It returns nil if there is none.
func (t *sessionTable) use(id, owner string) (s *session, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s = t.byID[id]
	if s == nil || s.owner != owner {
		return nil, func() {}
	}
	s.users++
	return s, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.users--
		s.used = time.Now()
	}
}

// end ends a session of the owner's, if there is one.
func (t *sessionTable) end(id, owner string) {
	t.mu.Lock()
	s := t.byID[id]
	if s == nil || s.owner != owner {
		t.mu.Unlock()
		return
	}
	delete(t.byID, id)
	t.mu.Unlock()
	s.close()
}

// sweep ends the sessions that were not used for too long.
func (t *sessionTable) sweep() {
	t.mu.Lock()
	var over []*session
	for id, s := range t.byID {
		if s.users == 0 && time.Since(s.used) >= t.ttl {
			delete(t.byID, id)
			over = append(over, s)
		}
	}
	t.mu.Unlock()
	for _, s := range over {
		s.close()
	}
}

// endAll ends all sessions.
func (t *sessionTable) endAll() {
	t.mu.Lock()
	all := t.byID
	t.byID = nil
	t.mu.Unlock()
	for _, s := range all {
		s.close()
	}
}
