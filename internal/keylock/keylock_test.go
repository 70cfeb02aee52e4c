package keylock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/agentlab-mcp/agentlab/internal/keylock"
)

func TestOneHolderPerKey(t *testing.T) {
	var locks keylock.Locks
	var inside [2]int // by key; the race detector watches them too
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			key := i % 2
			unlock, err := locks.Lock(t.Context(), string(rune('a'+key)))
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			inside[key]++
			if inside[key] != 1 {
				t.Errorf("%d hold key %d", inside[key], key)
			}
			inside[key]--
		})
	}
	all.Wait()
}

func TestWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keylock.Locks
		unlock, err := locks.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if other, err := locks.Lock(t.Context(), "b"); err != nil {
			t.Errorf("another key: %v", err)
		} else {
			other()
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { _, err := locks.Lock(ctx, "a"); done <- err }()
		synctest.Wait() // it waits
		cancel(gone)
		if err := <-done; !errors.Is(err, gone) {
			t.Errorf("who gave up got %v", err)
		}
		unlock()
		again, err := locks.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		again()
	})
}
