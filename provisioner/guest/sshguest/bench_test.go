package sshguest_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Each benchmark runs the same work through agentlab-guest and directly, in
// turns, and reports the ratio: a machine that is busy is so for both.

const script = "true"

func direct(b testing.TB) {
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		b.Errorf("%v: %s", err, out)
	}
}

func through(b testing.TB, p guest.Processes) {
	_, _, err := p.Start(context.Background(), guest.Cmd{Args: []string{"sh", "-c", script}}, guest.StartOptions{Wait: time.Minute, Max: 30000})
	if err != nil {
		b.Error(err)
	}
}

// median returns the median time of f and of floor, run in turns.
func median(n int, f, floor func()) (ours, theirs time.Duration) {
	times := [2][]time.Duration{}
	for range n {
		for i, g := range []func(){f, floor} {
			begin := time.Now()
			g()
			times[i] = append(times[i], time.Since(begin))
		}
	}
	slices.Sort(times[0])
	slices.Sort(times[1])
	return times[0][n/2], times[1][n/2]
}

func BenchmarkExec(b *testing.B) {
	p := start(b, os.Getuid()).conn(b).Processes()
	through(b, p)
	b.ResetTimer()
	ours, theirs := median(max(b.N, 200), func() { through(b, p) }, func() { direct(b) })
	b.ReportMetric(float64(ours)/float64(theirs), "x-direct")
	b.ReportMetric(float64(ours.Microseconds()), "us-ours")
	b.ReportMetric(float64(theirs.Microseconds()), "us-direct")
}

func BenchmarkExec16(b *testing.B) {
	p := start(b, os.Getuid()).conn(b).Processes()
	through(b, p)
	at16 := func(f func()) func() {
		return func() {
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					for range 20 {
						f()
					}
				})
			}
			all.Wait()
		}
	}
	b.ResetTimer()
	ours, theirs := median(max(b.N, 7), at16(func() { through(b, p) }), at16(func() { direct(b) }))
	b.ReportMetric(float64(theirs)/float64(ours), "x-direct-rate")
	b.ReportMetric(320/ours.Seconds(), "exec/s")
}

type discard struct{ n int }

func (d *discard) Write(b []byte) (int, error) { d.n += len(b); return len(b), nil }

func BenchmarkOutput20MB(b *testing.B) {
	const size = 20_000_000
	c := start(b, os.Getuid()).conn(b)
	args := []string{"sh", "-c", "head -c 20000000 /dev/zero"}
	ours := func() {
		var d discard
		if _, err := c.Run(context.Background(), guest.Cmd{Args: args}, guest.Streams{Stdout: &d}); err != nil || d.n != size {
			b.Errorf("%d bytes, %v", d.n, err)
		}
	}
	theirs := func() {
		var d discard
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout = &d
		if err := cmd.Run(); err != nil || d.n != size {
			b.Errorf("%d bytes, %v", d.n, err)
		}
	}
	ours()
	b.ResetTimer()
	o, t := median(max(b.N, 15), ours, theirs)
	b.ReportMetric(float64(o)/float64(t), "x-direct")
	b.ReportMetric(float64(o.Milliseconds()), "ms-ours")
}
