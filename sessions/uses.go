package sessions

import "time"

// use notes that a sandbox was used at a time, by who holds its line. If it has
// ended meanwhile, nothing is kept of it.
func (ls *lines) use(id string, l *line, at time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.byID[id] != l {
		return
	}
	if ls.used == nil {
		ls.used = map[string]time.Time{}
	}
	ls.used[id] = latest(ls.used[id], at)
}

// lastUse returns when the last use ended; now if one has not, and zero if there
// was none.
func (ls *lines) lastUse(id string, now time.Time) time.Time {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.byID[id]; l != nil && len(l.slots) > 0 {
		return now
	}
	return ls.used[id]
}

// ask says that the guest of a sandbox may be asked what runs: nobody does.
// Whoever may, calls asked when that is done.
func (ls *lines) ask(id string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.asking[id] {
		return false
	}
	if ls.asking == nil {
		ls.asking = map[string]bool{}
	}
	ls.asking[id] = true
	return true
}

func (ls *lines) asked(id string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.asking, id)
}

// retire keeps everybody from a sandbox that nobody uses, or has used after since,
// until release: so whoever comes sees what was decided, and none is cut off.
func (ls *lines) retire(id string, since time.Time) (release func(), idle bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byID[id]
	if l != nil && l.pins > 0 || ls.used[id].After(since) || ls.retired[id] != nil {
		return nil, false
	}
	decided := make(chan struct{})
	if ls.retired == nil {
		ls.retired = map[string]chan struct{}{}
	}
	ls.retired[id] = decided
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		delete(ls.retired, id)
		close(decided)
	}, true
}
