package agentconn

import (
	"sync"
	"time"
)

// Pauses between looks at a process in the guest.
const (
	firstPause = 4 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	maxUsual   = 250 * time.Millisecond
	minGlance  = 150 * time.Millisecond
)

// pace says when to look at a process in the guest. Most end after about the
// time that others of their script took in this guest, so that one look mostly
// suffices; the longer one lasts, the more seldom it is looked at.
type pace struct {
	mu    sync.Mutex
	usual map[string]time.Duration // by script
}

// pause is how long to wait after that many looks.
func (p *pace) pause(script string, age time.Duration, looks int) time.Duration {
	if looks == 0 {
		return max(p.of(script), firstPause) - age
	}
	return min(max(age*3/4, firstPause), lastPause)
}

func (p *pace) of(script string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usual[script]
}

// ended learns from one that was found to have ended: at the first look it may
// have been too late, at a later one the first was too early.
func (p *pace) ended(script string, age time.Duration, looks int) {
	if age > maxUsual {
		return // it says nothing of short ones
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usual == nil {
		p.usual = map[string]time.Duration{}
	}
	if looks <= 1 {
		age = p.usual[script] * 7 / 8
	}
	p.usual[script] = (p.usual[script] + age) / 2
}

// glance is how long a command is only looked at before its output is pulled:
// most have ended by then, and all they wrote comes with the end.
func (p *pace) glance() time.Duration { return max(minGlance, 2*p.of("supervise")) }
