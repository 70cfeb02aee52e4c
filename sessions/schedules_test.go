package sessions_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// scenario is what happens at once.
type scenario struct {
	actors []string        // see play.act
	clock  []time.Duration // after the sandbox was made, to where the clock is set
	broken bool            // the store can't be written when a TIMEOUT is first
	member bool            // the sandbox is a member of a pool, of which there is one
}

func (s scenario) String() string { return fmt.Sprint(s.actors, s.clock, s.broken, s.member) }

// The sandbox lasts an hour and may last four.
func scenarios() (small, large []scenario) {
	end := []time.Duration{time.Hour}
	idle := []time.Duration{idleTimeout}
	for _, pair := range [][]string{
		{"extend", "sweep"}, {"extend", "reconcile"}, {"shorten", "sweep"}, {"shorten", "reconcile"}, {"extend", "destroy"},
		{"shorten", "destroy"}, {"destroy", "sweep"}, {"destroy", "reconcile"}, {"extend", "shorten"}, {"use", "sweep"}, {"use", "destroy"},
	} {
		small = append(small, scenario{actors: pair, clock: end}, scenario{actors: pair, clock: end, broken: true})
	}
	for _, other := range []string{"use", "extend", "shorten", "destroy", "sweep"} {
		small = append(small, scenario{actors: []string{"idle", other}, clock: idle}, scenario{actors: []string{"idle", other}, clock: append(idle, end...)})
	}
	for _, actors := range [][]string{
		{"extend", "sweep", "reconcile"}, {"extend", "shorten", "sweep"}, {"extend", "shorten", "destroy", "reconcile"},
		{"extend", "shorten", "destroy", "sweep", "reconcile"}, {"extend", "extend2", "shorten", "sweep", "reconcile"},
		{"use", "idle", "extend", "destroy", "sweep"}, {"use", "idle", "extend", "shorten", "sweep", "reconcile", "destroy"},
	} {
		large = append(large, scenario{actors: actors, clock: []time.Duration{time.Hour - 1, time.Hour}},
			scenario{actors: actors, clock: []time.Duration{idleTimeout, time.Hour}, broken: true})
	}
	// Who comes to the gate of a pool first is up to chance: these can't be listed.
	for _, actors := range [][]string{
		{"claim", "claim2"}, {"claim", "outdate"}, {"claim", "sweep"}, {"claim", "reconcile"},
		{"claim", "claim2", "tend", "outdate"}, {"claim", "claim2", "outdate", "sweep", "reconcile"}, {"claim", "destroy", "tend", "sweep", "reconcile"},
	} {
		large = append(large, scenario{actors: actors, clock: []time.Duration{time.Minute, memberAge, time.Hour}, member: true})
	}
	return small, large
}

// A schedule is one order in which operations on a sandbox take their steps: each
// waits at every call of the store and the backend until it is let on, and the
// clock is one more of those that wait. What must hold in all of them:
//
//   - no early reap: a machine is destroyed only while its record says that it
//     has ended or is past its end, and it ends as TIMEOUT only past the end that
//     its owner was told last, or after nobody used it for the idle timeout;
//   - no lie: the papers never name an earlier end than the record;
//   - no immortal: past its last end there is neither a live record nor a machine.
//
// The orders of few operations are tried one after the other. Those of more are drawn.
func TestSchedules(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("AGENTLAB_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; AGENTLAB_SEED draws the same again", seed)
	small, large := scenarios()
	total, complete := 0, 0
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t, &memStore{})
		for _, s := range small {
			n, all := p.all(s, listed)
			total += n
			if all {
				complete++
			}
		}
	})
	inOrder := total
	for chunk := uint64(0); total < schedules && !t.Failed(); chunk++ { // bubbles of their own, which the years would fill
		synctest.Test(t, func(t *testing.T) {
			p := newPlay(t, &memStore{})
			r := rand.New(rand.NewPCG(seed, chunk))
			for n := range 10_000 {
				if total == schedules || t.Failed() {
					return
				}
				p.play(large[n%len(large)], func(n int) int { return r.IntN(n) })
				total++
			}
		})
	}
	t.Logf("schedules: %d; %d of them one after the other, which are all there are of %d of %d scenarios", total, inOrder, complete, len(small))
}

// Some of them on the real store.
func TestSchedulesOnTheRealStore(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		p := newPlay(t, nil)
		r := rand.New(rand.NewPCG(seed, 0))
		small, large := scenarios()
		for _, s := range append(small, large...) {
			for range 10 {
				p.play(s, func(n int) int { return r.IntN(n) })
			}
		}
	})
}

// all plays every schedule of a scenario, but at most so many. It returns how many,
// and whether these are all.
func (p *play) all(s scenario, most int) (n int, complete bool) {
	for path := []int{}; n < most && !p.t.Failed(); {
		depth := 0
		widths := p.play(s, func(int) int {
			defer func() { depth++ }()
			if depth < len(path) {
				return path[depth]
			}
			return 0
		})
		n++
		path = append(path, make([]int, max(0, len(widths)-len(path)))...)[:len(widths)]
		last := len(path) - 1
		for last >= 0 && path[last]+1 == widths[last] {
			last--
		}
		if last < 0 {
			return n, true
		}
		path = path[:last+1]
		path[last]++
	}
	return n, false
}
