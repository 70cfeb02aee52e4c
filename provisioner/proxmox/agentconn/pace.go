package agentconn

import (
	"slices"
	"sync"
	"time"
)

const (
	// guess is how long a script takes in a guest that we don't know yet.
	guess     = 50 * time.Millisecond
	leanGuess = 5 * time.Millisecond // of one that little comes before
	// maxUsual is the longest that a script is taken to last: what lasts longer
	// waits for something.
	maxUsual  = time.Second
	minUsual  = 2 * time.Millisecond
	minGap    = time.Millisecond // between looks at what little comes before
	minPause  = 5 * time.Millisecond
	lastPause = 500 * time.Millisecond
	// longPause is the longest pause, and unhurried how many times longer than a
	// pause beyond lastPause something has lasted.
	longPause = 2 * time.Second
	unhurried = 8
	minGlance = 300 * time.Millisecond
)

// Pace says when to look at a process in the guest: each look is a call, and the
// agent tells no one that a process has ended. Most scripts take as long as they
// took before in such a guest, so that one look mostly suffices; what lasts longer
// is looked at after ever longer pauses.
type Pace struct {
	mu    sync.Mutex
	usual map[string]time.Duration // by script
}

// pause is how long to wait after that many looks.
func (p *Pace) pause(script string, age time.Duration, looks int) time.Duration {
	switch {
	case looks == 0:
		return p.of(script) - age
	case slices.Contains(lean, script): // of which there are few, and somebody waits for each
		return min(max(age/8, minGap), lastPause)
	case looks == 1:
		return min(max(age/3, minPause), lastPause) // it is nearly done
	}
	return min(max(age, minPause), max(lastPause, min(age/unhurried, longPause)))
}

func (p *Pace) of(script string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guess(script)
}

// guess is of with p.mu held.
func (p *Pace) guess(script string) time.Duration {
	if d, known := p.usual[script]; known {
		return d
	}
	if slices.Contains(lean, script) {
		return leanGuess
	}
	return guess
}

// ended learns from a script that ran longer than low and no longer than high,
// not counting for how long it waited for something.
func (p *Pace) ended(script string, low, high time.Duration) {
	if low > maxUsual {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usual == nil {
		p.usual = map[string]time.Duration{}
	}
	usual := p.guess(script)
	aim := usual * 7 / 8 // the look may have come too late
	switch {
	case high < usual:
		aim = high
	case low >= usual:
		aim = (low + high) / 2
	}
	p.usual[script] = min(max((usual+aim)/2, minUsual), maxUsual)
}

// glance is how long a command is only looked at before its output is pulled:
// most have ended by then, and all they wrote comes with the end.
func (p *Pace) glance() time.Duration { return max(minGlance, 2*p.of("supervise")) }
