package sessions

import (
	"strings"
	"testing"
)

// The whole table, written down a second time: rows are from, columns are to.
func TestEveryPairOfStates(t *testing.T) {
	states := []State{Requested, Provisioning, Booting, Ready, Running, Stopping, Stopped, Starting, Suspended, Timeout, Failed, Destroying, Destroyed}
	const table = `
		. x . . . . . . . x x x .
		. . x . . . . . . x x x .
		. . . x . . . . . x x x .
		. . . . x x x . x x x x .
		. . . . . x x . x x x x .
		. . . . . . x . . x x x .
		. . . x . . . x . x x x .
		. . . x . x . . . x x x .
		. . . x . x x . . x x x .
		. . . . . . . . . . . x x
		. . . . . . . . . . . x x
		. . . . . . . . . . . . x
		. . . . . . . . . . . . .`
	cells := strings.Fields(table)
	if len(next) != len(states) || len(cells) != len(states)*len(states) {
		t.Fatalf("%d states in the map, %d cells", len(next), len(cells))
	}
	for i, from := range states {
		for j, to := range states {
			if want := cells[i*len(states)+j] == "x"; from.CanMove(to) != want {
				t.Errorf("%s to %s: %v, want %v", from, to, !want, want)
			}
		}
		if live := i < 9; from.Live() != live {
			t.Errorf("%s: Live() = %v", from, !live)
		}
		if from != Destroyed && from != Destroying && !from.CanMove(Destroying) {
			t.Errorf("%s can't be destroyed", from)
		}
	}
}
