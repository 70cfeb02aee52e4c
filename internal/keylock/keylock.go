// Package keylock is one mutex a key, for as many keys as are in use at a
// time. Unlike a map of sync.Mutex it forgets keys that nobody holds, and who
// waits can give up.
package keylock

import (
	"context"
	"sync"
)

// Locks are the mutexes. Its zero value is ready for use.
type Locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the holder lets go
}

// Lock waits for the mutex of key until ctx ends, and returns the cause of
// that as its error. The caller calls unlock once.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		wait, mine := l.take(key)
		if mine != nil {
			return func() { l.release(key, mine) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns mine if it took the mutex, else what the holder closes.
func (l *Locks) take(key string) (wait <-chan struct{}, mine chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.held[key]; ok {
		return held, nil
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	mine = make(chan struct{})
	l.held[key] = mine
	return nil, mine
}

func (l *Locks) release(key string, mine chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, key)
	close(mine)
}
