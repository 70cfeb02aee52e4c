package proxmox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	// askPause is the least time between two questions to a guest, also when
	// Proxmox says at once that its agent does not answer.
	askPause = 250 * time.Millisecond
	// askSoon is the same where Proxmox does say so at once and the guest is young:
	// such a question holds a worker for no longer than any call.
	askSoon = 10 * time.Millisecond
	// young is how old a guest is at most that is asked so often.
	young = 2 * time.Minute
	// askRest is the longest time between two questions to a guest that is late.
	askRest = 5 * time.Second
	// samples is how many boots of a profile are remembered.
	samples = 8
)

// prober waits for guests to boot. An agent that does not answer holds one of
// its node's three API workers for 3 s, for all users of that Proxmox
// (measured), so that each node is asked one question at a time, whoever waits.
// A question that is asked a little too early is answered as soon as the agent
// listens: it costs the node a worker for a moment, and us no time.
type prober struct {
	// ping asks a guest once, and says when it did: it may have to wait its turn.
	ping func(context.Context, pve.VM) (asked time.Time, err error)

	mu    sync.Mutex
	nodes map[string]*queue // of nodes where somebody waits
	took  map[string][]time.Duration
}

// queue is the guests of a node that somebody waits for.
type queue struct {
	boots []*boot
	wake  chan struct{}
}

// boot is one guest that somebody waits for.
type boot struct {
	vm      pve.VM
	profile string
	started time.Time // zero if not by us
	since   time.Time // when the first began to wait
	due     time.Time // of the next question
	missed  int       // questions without an answer
	last    error     // of these
	waiters int
	done    chan struct{} // closed with err set
	err     error
}

// wait returns when the guest's agent answers. started is when we started the
// guest, zero if we did not, or if it was up since.
func (q *prober) wait(ctx context.Context, vm pve.VM, profile string, started time.Time) error {
	b := q.join(vm, profile, started)
	defer q.leave(b)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.last != nil {
		return fmt.Errorf("%w; the last answer: %w", ctx.Err(), b.last)
	}
	return ctx.Err()
}

func (q *prober) join(vm pve.VM, profile string, started time.Time) *boot {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.nodes[vm.Node]
	if n == nil {
		n = &queue{wake: make(chan struct{}, 1)}
		if q.nodes == nil {
			q.nodes = map[string]*queue{}
		}
		q.nodes[vm.Node] = n
		go q.run(vm.Node, n)
	}
	i := slices.IndexFunc(n.boots, func(b *boot) bool { return b.vm == vm })
	if i < 0 {
		i = len(n.boots)
		n.boots = append(n.boots, &boot{vm: vm, profile: profile, started: started, since: time.Now(), done: make(chan struct{})})
	}
	n.boots[i].waiters++
	n.nudge()
	return n.boots[i]
}

func (q *prober) leave(b *boot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.waiters--; b.waiters > 0 {
		return
	}
	if n := q.nodes[b.vm.Node]; n != nil {
		n.drop(b)
		n.nudge()
	}
}

func (n *queue) drop(b *boot) {
	n.boots = slices.DeleteFunc(n.boots, func(other *boot) bool { return other == b })
}

func (n *queue) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run asks the guests of a node until nobody waits for one.
func (q *prober) run(node string, n *queue) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		b, at, over := q.next(node, n, time.Now())
		switch {
		case over:
			return
		case b != nil:
			q.ask(n, b)
			continue
		}
		timer.Reset(time.Until(at))
		select {
		case <-n.wake:
		case <-timer.C:
		}
	}
}

// next returns the guest to ask now, or when there will be one. Those that were
// asked least come first, so that guests that hang don't delay those that boot;
// among them those that somebody else has started, since they are likely up.
func (q *prober) next(node string, n *queue, now time.Time) (b *boot, at time.Time, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(n.boots) == 0 {
		delete(q.nodes, node)
		return nil, at, true
	}
	at = now.Add(time.Hour)
	for _, other := range n.boots {
		due := other.due
		if soon, _ := q.span(other.profile); !other.started.IsZero() && due.Before(other.started.Add(soon)) {
			due = other.started.Add(soon)
		}
		switch {
		case due.After(now):
			if due.Before(at) {
				at = due
			}
		case b == nil || other.missed < b.missed || other.missed == b.missed && other.started.Before(b.started):
			b = other
		}
	}
	return b, at, false
}

// ask asks a guest. The question is not broken off with whoever waits, since
// it would hold its worker all the same.
func (q *prober) ask(n *queue, b *boot) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	asked, err := q.ping(ctx, b.vm)
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if later(err) {
		_, to := q.span(b.profile)
		b.missed, b.last, b.due = b.missed+1, err, now.Add(pause(now.Sub(b.begin()), to, now.Sub(asked)))
		return
	}
	if err == nil && !b.started.IsZero() {
		q.learn(b, now.Sub(b.started), b.missed > 0 || now.Sub(asked) > now.Sub(b.started)/20)
	}
	b.err = err
	close(b.done)
	n.drop(b)
}

func (b *boot) begin() time.Time {
	if b.started.IsZero() {
		return b.since
	}
	return b.started
}

// later says that a guest which was asked may answer another time.
func later(err error) bool {
	for _, k := range []pve.Kind{pve.AgentNotRunning, pve.AgentTimeout, pve.NodeUnreachable, pve.Unreachable} {
		if errors.Is(err, k) {
			return true
		}
	}
	return pve.Lost(err) || errors.Is(err, context.DeadlineExceeded)
}

// pause is how long to leave a guest of that age alone. to is how long boots
// took at most, zero if unknown; held is how long the last question took.
func pause(age, to, held time.Duration) time.Duration {
	rest := min(max(age/16, askPause), askRest)
	if age < 3*to/2 {
		rest = askPause
	}
	if age < young {
		rest = min(rest, max(age/512, 4*held, askSoon))
	}
	return rest
}

// span returns when it is worth to ask a guest of that profile first, and when
// it ought to be up; q.mu is held.
func (q *prober) span(profile string) (soon, to time.Duration) {
	took := q.took[profile]
	if len(took) == 0 {
		return 0, 0
	}
	return slices.Min(took) * 9 / 10, slices.Max(took)
}

// learn notes how long a guest took to boot. Unless we saw it come up it was up
// before, so that d is but an upper bound; q.mu is held.
func (q *prober) learn(b *boot, d time.Duration, exact bool) {
	if q.took == nil {
		q.took = map[string][]time.Duration{}
	}
	took := q.took[b.profile]
	if exact || len(took) == 0 || d < slices.Min(took) {
		took = append(took, d)
		q.took[b.profile] = took[max(0, len(took)-samples):]
	}
}
