package crashtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// twin is a crash of which one of the two that vouch for a machine does not
// survive: its record, or its papers.
type twin struct {
	name string
	lose func(t *testing.T, s *site)
	// check says what holds when the next daemon has started.
	check func(s *site, t *testing.T, op operation)
}

// twins are both.
func twins() []twin {
	return []twin{
		{"papers-alone", then((*site).loseStore), (*site).rebuilt},
		{"record-alone", func(t *testing.T, s *site) { t.Helper(); s.world.strip(t) }, (*site).refused},
	}
}

// TestTwins kills the daemon after each step of an operation that changes a
// machine or its record, and takes away one of them.
func TestTwins(t *testing.T) {
	ops := []operation{
		{name: "create", before: then((*site).coolDown), do: create},
		{name: "extend-later", before: then((*site).haveSandbox), do: extend(7200)},
		{name: "destroy", before: then((*site).haveSandbox), do: destroy},
		{name: "reap", before: then((*site).haveSandbox), do: extend(1), until: then((*site).over)},
		// Of the making that follows enough is seen above.
		{name: "claim", before: then((*site).havePool), do: create, keeps: true, only: []string{
			"store claim", "local name papers after #1", "pve PUT nodes/qemu/config after #1",
		}},
		{name: "drain", before: then((*site).outdate), until: then((*site).filled), keeps: true, only: []string{"store move DESTROYING after #1"}},
	}
	for name, newWorld := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := &tally{}
			t.Cleanup(func() { sum.tell(t, "crashes with a loss, backend "+name) })
			for _, tw := range twins() {
				for _, op := range ops {
					t.Run(tw.name+"-"+op.name, func(t *testing.T) {
						t.Parallel()
						s := newSite(t, sum, newWorld)
						s.world.plant(t)
						s.bereave(t, op, tw)
					})
				}
			}
		})
	}
}

// bereave kills the daemon after each step that changes something and has the
// twin lose what it loses.
func (s *site) bereave(t *testing.T, op operation, tw twin) {
	points := slices.DeleteFunc(s.record(t, op), func(point string) bool {
		return looks(point) || strings.Contains(point, " before #")
	})
	s.tally.points.Add(int64(len(points)))
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, " ", "-"), func(t *testing.T) {
			s.prepare(t, op)
			s.crash(t, op, point)
			tw.lose(t, s)
			s.start(t)
			tw.check(s, t, op)
			s.untouched(t)
			s.fill(t, 0)
			s.clean(t)
		})
		if t.Failed() {
			return
		}
	}
}

// rebuilt waits until all machines have records again that can be used, and
// looks whether a sandbox that is asked for by its name is the one that is there.
func (s *site) rebuilt(t *testing.T, op operation) {
	t.Helper()
	s.settle(t)
	if op.name == "create" || op.name == "claim" {
		s.createAgain(t)
	}
}

// refused waits until no record is of a machine whose papers are gone, and looks
// whether that was left as it was.
func (s *site) refused(t *testing.T, _ operation) {
	t.Helper()
	var stripped []string
	s.await(t, "records that agree with what can be told of the machines", func() (bool, string) {
		records := s.records(t)
		stripped = s.world.stripped(t)
		ok := len(records) <= 1
		for _, sb := range records {
			usable := sb.State == sessions.Ready || sb.State == sessions.Running
			ok = ok && usable && len(s.world.machines(t)) == len(stripped)+1
		}
		return ok, fmt.Sprint(records)
	})
	lost := s.world.bereft()
	if !slices.Equal(stripped, lost) {
		s.tally.touches.Add(1)
		t.Errorf("machines without papers were %v, are %v", lost, stripped)
	}
	s.world.clear(t)
	s.settle(t)
}
