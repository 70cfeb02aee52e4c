// Package turns gives a bounded number of slots to those who wait for one, in
// turn between their owners: behind somebody who wants five hundred, another
// waits for one of them and not for five hundred. Everybody can see its place.
package turns

import (
	"context"
	"slices"
	"sync"
)

// Turns are the slots and the line before them.
type Turns struct {
	mu     sync.Mutex
	free   int
	owners []string           // who has somebody in line; the next to come first
	lines  map[string][]*Turn // of each owner, the oldest first
	moved  chan struct{}      // closed when the line moves
}

// New returns that many slots, all of them free.
func New(slots int) *Turns {
	return &Turns{free: slots, lines: map[string][]*Turn{}, moved: make(chan struct{})}
}

// Turn is a place in line and then a slot.
type Turn struct {
	of    *Turns
	owner string
	come  chan struct{} // closed when it has a slot
	done  bool          // guarded by of.mu
}

// Join takes a place at the end of owner's line. The caller ends it with Done.
func (t *Turns) Join(owner string) *Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := &Turn{of: t, owner: owner, come: make(chan struct{})}
	if len(t.lines[owner]) == 0 {
		t.owners = append(t.owners, owner)
	}
	t.lines[owner] = append(t.lines[owner], u)
	t.next()
	return u
}

// Load returns how many slots are free, and how many are in line, of all owners
// and of one.
func (t *Turns) Load(owner string) (free, all, own int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, line := range t.lines {
		all += len(line)
	}
	return t.free, all, len(t.lines[owner])
}

// Idle says that a slot is free, so that nobody waits for one.
func (t *Turns) Idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.free > 0
}

// Wait waits until u has a slot, or ctx ends, and returns the cause of that,
// also when there is a slot by then.
func (u *Turn) Wait(ctx context.Context) error {
	select {
	case <-u.come:
	case <-ctx.Done():
	}
	return context.Cause(ctx)
}

// Done gives the slot back, or leaves the line. Further calls do nothing.
func (u *Turn) Done() {
	t := u.of
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.done {
		return
	}
	u.done = true
	if i := slices.Index(t.lines[u.owner], u); i >= 0 {
		t.take(u.owner, i)
		t.wake()
		return
	}
	t.free++
	t.next()
}

// Place returns which in line u is, from 1 on, if nobody comes or goes; 0 is
// that it has its slot. moved is closed when that may have changed.
func (u *Turn) Place() (place int, moved <-chan struct{}) {
	t := u.of
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.lines[u.owner], u)
	if i < 0 {
		return 0, t.moved
	}
	mine := slices.Index(t.owners, u.owner)
	place = i + 1
	for j, other := range t.owners {
		switch n := len(t.lines[other]); {
		case j < mine:
			place += min(n, i+1)
		case j > mine:
			place += min(n, i)
		}
	}
	return place, t.moved
}

// next gives free slots to those whose turn it is.
func (t *Turns) next() {
	for t.free > 0 && len(t.owners) > 0 {
		owner := t.owners[0]
		u := t.take(owner, 0)
		if len(t.lines[owner]) > 0 { // the others come first now
			t.owners = append(t.owners[1:], owner)
		}
		t.free--
		close(u.come)
	}
	t.wake()
}

// take takes the i-th of owner out of the line.
func (t *Turns) take(owner string, i int) *Turn {
	u := t.lines[owner][i]
	t.lines[owner] = slices.Delete(t.lines[owner], i, i+1)
	if len(t.lines[owner]) == 0 {
		delete(t.lines, owner)
		t.owners = slices.DeleteFunc(t.owners, func(o string) bool { return o == owner })
	}
	return u
}

func (t *Turns) wake() {
	close(t.moved)
	t.moved = make(chan struct{})
}
