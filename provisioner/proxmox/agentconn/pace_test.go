package agentconn

import (
	"testing"
	"time"
)

// looked says how many looks it takes to see the end of a script that takes so
// long, and when it was seen, as process.wait does it.
func (p *Pace) looked(takes, waits time.Duration) (looks int, seen time.Duration) {
	var low time.Duration
	for seen < takes+waits {
		low = seen
		seen += max(p.pause("x", seen, looks), 0)
		looks++
	}
	p.ended("x", low-waits, seen-waits)
	return looks, seen
}

// Looking costs a call each: few suffice, and none comes long after the end.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		takes        time.Duration
		first, later int // looks at most, also on average later
		late         time.Duration
	}{
		{5 * time.Millisecond, 1, 2, 50 * time.Millisecond},
		{45 * time.Millisecond, 1, 2, 20 * time.Millisecond},
		{90 * time.Millisecond, 3, 2, 60 * time.Millisecond},
		{250 * time.Millisecond, 4, 2, 150 * time.Millisecond},
		{900 * time.Millisecond, 6, 3, 500 * time.Millisecond},
		{3 * time.Second, 11, 11, 500 * time.Millisecond},
		{10 * time.Second, 20, 20, 1250 * time.Millisecond},
		{time.Minute, 50, 50, 2 * time.Second},
	} {
		p := &Pace{}
		if n, seen := p.looked(tt.takes, 0); n > tt.first || seen-tt.takes > tt.late {
			t.Errorf("what takes %v is seen after %v and %d looks", tt.takes, seen, n)
		}
		for range 20 {
			p.looked(tt.takes, 0)
		}
		sum := 0
		const many = 100
		for range many {
			n, seen := p.looked(tt.takes, 0)
			sum += n
			if seen-tt.takes > tt.late {
				t.Errorf("what takes %v is later seen after %v", tt.takes, seen)
			}
		}
		if sum > tt.later*many {
			t.Errorf("what takes %v has %.2f looks later", tt.takes, float64(sum)/many)
		}
	}
}

// What a command waited for says nothing of how long the next will take.
func TestPaceOfLongCommands(t *testing.T) {
	p := &Pace{}
	for range 100 {
		p.looked(40*time.Millisecond, 3*time.Second)
	}
	if n, seen := p.looked(40*time.Millisecond, 0); n > 2 || seen > 100*time.Millisecond {
		t.Errorf("after long commands a short one is seen after %v and %d looks", seen, n)
	}
}
