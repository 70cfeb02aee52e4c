package turns_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/turns"
)

// The places that are told are those in which the slots come.
func TestInTurnBetweenOwners(t *testing.T) {
	ts := turns.New(1)
	holds := ts.Join("a")
	line := []*turns.Turn{ts.Join("a"), ts.Join("a"), ts.Join("a"), ts.Join("b"), ts.Join("c"), ts.Join("b")}
	var places []int
	for _, u := range line {
		place, _ := u.Place()
		places = append(places, place)
	}
	if want := []int{1, 4, 6, 2, 3, 5}; !slices.Equal(places, want) {
		t.Errorf("places %v, want %v", places, want)
	}
	for place := 1; place <= len(line); place++ {
		holds.Done()
		holds = line[slices.Index(places, place)]
		if now, _ := holds.Place(); now != 0 {
			t.Fatalf("number %d in line is number %d when it should have its slot", place, now)
		}
		if free, n, _ := ts.Load("a"); free != 0 || n != len(line)-place {
			t.Errorf("%d in line and %d slots free after %d of %d", n, free, place, len(line))
		}
	}
}

func TestWhoLeavesTheLineTakesNoSlot(t *testing.T) {
	ts := turns.New(1)
	holds, leaves, last := ts.Join("a"), ts.Join("a"), ts.Join("b")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if err := leaves.Wait(ctx); !errors.Is(err, gone) {
		t.Errorf("Wait: %v", err)
	}
	leaves.Done()
	leaves.Done()
	for owner, want := range map[string]int{"a": 0, "b": 1} {
		if _, all, own := ts.Load(owner); all != 1 || own != want {
			t.Errorf("%d in line, %d of %s, want %d of 1", all, own, owner, want)
		}
	}
	place, moved := last.Place()
	if place != 1 {
		t.Errorf("place %d", place)
	}
	holds.Done()
	holds.Done() // must not free a second slot
	<-moved
	if err := last.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := last.Wait(ctx); !errors.Is(err, gone) {
		t.Errorf("Wait with a slot, for nobody: %v", err)
	}
	if place, _ := ts.Join("c").Place(); place != 1 {
		t.Errorf("a slot was given back twice: place %d", place)
	}
}
