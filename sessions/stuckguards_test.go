package sessions_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// The longest stuck is shown first, whatever its id; of one that is tried no more
// nobody says that it is.
func TestStuckAreShownInOrder(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var ids []string
		for range 5 {
			ids = append(ids, l.create(t, sessions.CreateRequest{}).ID)
		}
		slices.Sort(ids)
		slices.Reverse(ids)
		l.world.fail("destroy", provisioner.ErrNotOurs)
		for _, id := range ids {
			_, err := l.Destroy(as(t, "alice"), id)
			if _, msg := kind(t, err); strings.Contains(msg, "tried again") {
				t.Errorf("Destroy: %q", msg)
			}
			time.Sleep(time.Second)
		}
		all, err := l.Stuck(as(t, "alice"))
		var got []string
		for _, s := range all {
			got = append(got, s.ID)
			if s.String() != s.Problem {
				t.Errorf("what is tried no more: %q", s)
			}
		}
		if err != nil || !slices.Equal(got, ids) {
			t.Errorf("stuck, the longest first, %v, %v; want %v", got, err, ids)
		}
	})
}

// Of a removal that is being tried again just now no time is told that is over.
func TestStuckIsBeingTriedAgain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		sb := l.create(t, sessions.CreateRequest{})
		l.world.fail("destroy", errNode)
		go func() { _, _ = l.Destroy(as(t, "alice"), sb.ID) }() // its answer is another test's
		synctest.Wait()
		l.world.hang("destroy", "")
		time.Sleep(time.Second / 2) // so that it waits as long as the next try hangs, and ends before it
		_, err := l.Destroy(as(t, "alice"), sb.ID)
		if _, msg := kind(t, err); !strings.Contains(msg, "; it is being tried again.") || strings.Contains(msg, "next try") {
			t.Errorf("Destroy: %q", msg)
		}
		l.world.onStep(nil)
	})
}
