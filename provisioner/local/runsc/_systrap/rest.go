package systrap

import "time"

// longestRest bounds how much later than upstream the sentry notices that
// there is work again: for that long its fast paths stay as they were.
const longestRest = 20 * time.Millisecond

// rest takes the place of time.Sleep(recordingPeriod) in controlFastPath. Upstream
// looks 2500 times a second at how long switches take, also when there are none:
// that is some hundredths of a CPU for each sandbox that does nothing. Here the
// time between two looks doubles as long as nothing was switched, up to longestRest.
type rest time.Duration

func (r *rest) sleep() {
	before := switches()
	time.Sleep(max(time.Duration(*r), recordingPeriod))
	if switches() == before {
		*r = rest(min(2*max(time.Duration(*r), recordingPeriod), longestRest))
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
