package pve

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	firstLook = time.Millisecond     // some tasks are done at once
	shortest  = 5 * time.Millisecond // pause between two looks
	longest   = time.Second          // pause between two looks

	// From so many tasks on one node on, one look at the node's list of active
	// tasks replaces one call per task. The list is also cheaper: pveproxy
	// answers it, while a task's status takes one of the node's three workers.
	crowd = 4
	// The list is a file that a dying worker may leave stale, so that each
	// task is asked for by itself now and then.
	distrust = 10 * time.Second
	// A task whose status can't be had for so long is given up.
	patience = time.Minute

	looks = 2 // rounds in flight per node
	calls = 4 // calls in flight per round
)

// Wait awaits the end of a task and returns it; if the task failed, with an
// *Error that says why. It looks after a few milliseconds and then in pauses
// that grow to at most a second, and around the time at which tasks of this
// type have ended on this node lately more often. All waiters share one
// poller per node. When ctx ends, Wait returns its error and the task goes on.
func (c *Client) Wait(ctx context.Context, id UPID) (Task, error) {
	if id.Node() == "" {
		return Task{}, &Error{Kind: Parameter, Message: fmt.Sprintf("%q is not a task id", id)}
	}
	w := c.watch(id)
	defer c.unwatch(w)
	select {
	case <-w.done:
		return w.task, w.err
	case <-ctx.Done():
		return Task{}, fmt.Errorf("await task %s: %w", id.Type(), ctx.Err())
	}
}

// watch is a task that somebody awaits. All but id and done is guarded by
// Client.mu until done is closed.
type watch struct {
	id      UPID
	waiters int
	start   time.Time
	due     time.Time // of the next look
	asked   time.Time // when its own status was last asked for
	failing time.Time // since when looks have failed; zero if they don't
	busy    bool      // a look is under way
	ended   bool
	task    Task
	err     error
	done    chan struct{}
}

// poller looks at the awaited tasks of one node. It lives as long as there is
// a waiter.
type poller struct {
	client  *Client
	node    string
	ctx     context.Context // ends with the last waiter
	cancel  context.CancelFunc
	wake    chan struct{}
	watches map[UPID]*watch
	flying  int  // rounds in flight
	blind   bool // the list of active tasks does not show ours
}

func (c *Client) watch(id UPID) *watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pollers[id.Node()]
	if p == nil {
		p = &poller{client: c, node: id.Node(), wake: make(chan struct{}, 1), watches: map[UPID]*watch{}}
		p.ctx, p.cancel = context.WithCancel(context.Background())
		if c.pollers == nil {
			c.pollers = map[string]*poller{}
		}
		c.pollers[id.Node()] = p
		go p.run()
	}
	w := p.watches[id]
	if w == nil {
		now := time.Now()
		w = &watch{id: id, start: now, due: now.Add(firstLook), asked: now, done: make(chan struct{})}
		p.watches[id] = w
		p.nudge()
	}
	w.waiters++
	return w
}

func (c *Client) unwatch(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.waiters--; w.waiters > 0 {
		return
	}
	p := c.pollers[w.id.Node()]
	delete(p.watches, w.id)
	if len(p.watches) == 0 {
		p.cancel()
		delete(c.pollers, p.node)
	}
}

func (p *poller) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *poller) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, next := p.pick(time.Now())
		if batch != nil {
			go p.round(batch)
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-p.ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// pick returns the tasks to look at now, or, if there are none, until when to
// sleep. Many tasks are looked at together as soon as one is due.
func (p *poller) pick(now time.Time) ([]*watch, time.Time) {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	next := now.Add(time.Hour)
	if p.flying == looks {
		return nil, next // a round that ends wakes us
	}
	var due, idle []*watch
	for _, w := range p.watches {
		if w.busy || w.ended {
			continue
		}
		idle = append(idle, w)
		if !w.due.After(now) {
			due = append(due, w)
		} else if w.due.Before(next) {
			next = w.due
		}
	}
	if len(due) == 0 {
		return nil, next
	}
	if len(idle) >= crowd && !p.blind {
		due = idle
	}
	for _, w := range due {
		w.busy = true
	}
	p.flying++
	return due, next
}

// round looks at a batch of tasks.
func (p *poller) round(batch []*watch) {
	ask, hidden := batch, false
	if p.listable(len(batch)) {
		if active, err := p.client.ActiveTasks(p.ctx, p.node); err == nil {
			ask, hidden = p.settle(batch, active)
		}
	}
	var g errgroup.Group
	g.SetLimit(calls)
	for _, w := range ask {
		g.Go(func() error {
			task, err := p.client.TaskStatus(p.ctx, w.id)
			p.record(w, task, err)
			return nil
		})
	}
	_ = g.Wait()

	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	running := func(w *watch) bool { return !w.ended && w.failing.IsZero() }
	p.blind = p.blind || hidden && slices.ContainsFunc(ask, running)
	p.flying--
	p.nudge()
}

// listable reports whether n tasks are better looked up in the node's list.
func (p *poller) listable(n int) bool {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return n >= crowd && !p.blind
}

// settle puts off the tasks that are listed as active and returns the others,
// and whether not one of the batch was listed.
func (p *poller) settle(batch []*watch, active []UPID) (rest []*watch, hidden bool) {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	now := time.Now()
	hidden = true
	for _, w := range batch {
		listed := slices.Contains(active, w.id)
		hidden = hidden && !listed
		if listed && now.Sub(w.asked) < distrust {
			p.postpone(w, now, true)
		} else {
			rest = append(rest, w)
		}
	}
	return rest, hidden
}

// record notes what a look at one task has shown.
func (p *poller) record(w *watch, task Task, err error) {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	now := time.Now()
	w.asked = now
	switch {
	case err == nil && !task.Done():
		w.failing = time.Time{}
		p.postpone(w, now, false)
	case err == nil:
		task.UPID = w.id
		w.task, w.err = task, task.Err()
		if w.err == nil {
			p.client.history.add(w.id, now.Sub(w.start))
		}
		w.end()
	case p.passing(err) && (w.failing.IsZero() || now.Sub(w.failing) < patience):
		if w.failing.IsZero() {
			w.failing = now
		}
		p.postpone(w, now, false)
	default:
		w.err = fmt.Errorf("await task %s: %w", w.id.Type(), err)
		w.end()
	}
}

// passing reports whether a look that failed with err may succeed later.
func (p *poller) passing(err error) bool {
	return p.ctx.Err() != nil || is(err, Unreachable, ConnectionLost, Interrupted, NodeUnreachable)
}

func (w *watch) end() {
	w.busy, w.ended = false, true
	close(w.done)
}

// postpone puts off the next look at a task; see pause.
func (p *poller) postpone(w *watch, now time.Time, listed bool) {
	w.busy = false
	w.due = now.Add(pause(now.Sub(w.start), p.client.history.of(w.id), listed))
}

// span is how long tasks of one type took lately, from and to; zero if unknown.
type span struct{ from, to time.Duration }

// pause is how long to wait for the next look at a task of this age. Without
// history a part of the age is the most that is lost. With it, looks are rare
// before the earliest end seen and dense around it. A look at the list of a node
// serves many, so that it is worth to be made sooner without history; with it,
// the ends of many tasks come so close that it needs not be as dense.
func pause(age time.Duration, s span, listed bool) time.Duration {
	part, dense := time.Duration(10), time.Duration(256)
	if listed {
		part, dense = 16, 128
	}
	soon := s.from * 19 / 20
	switch {
	case s.to == 0 || age > 2*s.to:
		return min(max(age/part, shortest), longest)
	case age < soon:
		return min(max(soon-age, shortest), longest)
	}
	return min(max(s.to/dense, shortest), longest)
}

// history remembers how long the last tasks of each type took on each node.
type history map[string][]time.Duration

func historyKey(id UPID) string { return id.Node() + " " + id.Type() }

func (h *history) add(id UPID, d time.Duration) {
	if *h == nil {
		*h = history{}
	}
	seen := append((*h)[historyKey(id)], d)
	(*h)[historyKey(id)] = seen[max(0, len(seen)-8):]
}

func (h history) of(id UPID) span {
	seen := h[historyKey(id)]
	if len(seen) == 0 {
		return span{}
	}
	return span{slices.Min(seen), slices.Max(seen)}
}
