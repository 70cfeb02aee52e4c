package systrap

import "time"

const (
	// longestRest bounds how much later than upstream the sentry notices that
	// there is work again: for that long its fast paths stay as they were.
	longestRest = 200 * time.Millisecond

	// manySwitches is more than a guest makes that looks at its memory now and
	// then. A command that is run makes some hundreds.
	manySwitches = 64
)

// rest takes the place of time.Sleep(recordingPeriod) in controlFastPath. Upstream
// looks 2500 times a second at how long switches take, also when there are none:
// that is some hundredths of a CPU for each sandbox that does nothing. Here the
// time between two looks grows as long as little happens, up to longestRest: less
// than would do upstream for a median in each of its periods, or than manySwitches.
type rest time.Duration

func (r *rest) sleep() {
	d := max(time.Duration(*r), recordingPeriod)
	before := switches()
	time.Sleep(d)
	if switches()-before < min(manySwitches, minNecessaryRecordings*uint64(d/recordingPeriod)) {
		*r = rest(min(4*d, longestRest))
	} else {
		*r = 0
	}
}

// switches counts what was recorded in this measurement period.
func switches() (n uint64) {
	for i := range numLatencyBuckets {
		n += latencies.stubBound[i].Load() + latencies.sentryBound[i].Load()
	}
	return n
}
