package local

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkRekey hands a machine on and on, each time over the channel that the
// last time has left, as a pool has one of each of its machines.
func BenchmarkRekey(b *testing.B) {
	p := newPlace(b, programs(b))
	spec := testSpec("sb-bench")
	spec.Pooled = true
	ref := p.create(b, spec)
	conn, err := p.Dial(b.Context(), ref)
	if err != nil {
		b.Fatal(err)
	}
	var floor, took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := conn.Processes().List(b.Context()); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(start))
		spec.Papers.Keys++
		spec.Hostname = "claimed-" + strconv.Itoa(spec.Papers.Keys)
		start = time.Now()
		if conn, err = p.Rekey(b.Context(), ref, spec, conn); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	b.StopTimer()
	_ = conn.Close()
	median := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[len(d)/2]
	}
	b.ReportMetric(float64(median(took).Microseconds()), "us-rekey/p50")
	b.ReportMetric(float64(median(floor).Microseconds()), "us-call/p50")
}
