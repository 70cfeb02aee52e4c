package proxmox

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// fakeNode is a node's three API workers in the time of a synctest bubble. A
// question to an agent holds its worker until the agent answers, at most 3 s.
type fakeNode struct {
	mu      sync.Mutex
	boot    map[int]time.Duration // of each guest; negative is never
	start   time.Time
	busy    [3]int // calls at each worker
	turn    [3]chan struct{}
	pings   int           // in flight
	most    int           // of these
	count   map[int]int   // questions to each guest
	service time.Duration // of any call
	brisk   bool          // that an agent does not answer is said at once
}

func newFakeNode(guests int, boot time.Duration) *fakeNode {
	n := &fakeNode{turn: [3]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)}, boot: map[int]time.Duration{}, start: time.Now(), count: map[int]int{}, service: 20 * time.Millisecond}
	for id := range guests {
		n.boot[id] = boot
	}
	return n
}

func (n *fakeNode) prober() *prober {
	return &prober{ping: func(ctx context.Context, vm pve.VM) (time.Time, error) {
		return time.Now(), (&pve.Client{Transport: n}).AgentPing(ctx, vm)
	}}
}

// work takes an idle worker, or else queues at the one that is held longest.
func (n *fakeNode) work(f func()) {
	n.mu.Lock()
	w := 0
	for i := range n.busy {
		if n.busy[i] == 0 {
			w = i
			break
		}
		if n.busy[i] > n.busy[w] {
			w = i
		}
	}
	n.busy[w]++
	n.mu.Unlock()
	n.turn[w] <- struct{}{}
	time.Sleep(n.service)
	f()
	<-n.turn[w]
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy[w]--
}

// Do implements pve.Transport.
func (n *fakeNode) Do(_ context.Context, r pve.Request) (data json.RawMessage, err error) {
	id, _ := strconv.Atoi(r.Path[3])
	n.mu.Lock()
	n.pings++
	n.most = max(n.most, n.pings)
	n.count[id]++
	boot, up := n.boot[id], n.start.Add(n.boot[id])
	n.mu.Unlock()
	n.work(func() {
		left := time.Until(up)
		if boot < 0 || left > 3*time.Second || n.brisk && left > 0 {
			if !n.brisk {
				time.Sleep(3 * time.Second)
			}
			err = &pve.Error{Kind: pve.AgentNotRunning, Message: "QEMU guest agent is not running"}
			return
		}
		time.Sleep(left)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pings--
	return json.RawMessage(`{}`), err
}

func guestVM(id int) pve.VM { return pve.VM{Node: "pve", ID: id} }

// A hundred guests boot at once. Whoever else uses the node finds a worker free
// at any time, and all guests are found soon after they are up.
func TestBootingGuestsLeaveWorkersToOthers(t *testing.T) {
	for _, boot := range []time.Duration{6 * time.Second, 40 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			n := newFakeNode(100, boot)
			q := n.prober()
			ctx, cancel := context.WithCancel(t.Context())
			var worst time.Duration
			var other sync.WaitGroup
			other.Go(func() {
				for ctx.Err() == nil {
					began := time.Now()
					n.work(func() {})
					worst = max(worst, time.Since(began)-n.service)
					time.Sleep(30 * time.Millisecond)
				}
			})
			var wg sync.WaitGroup
			for id := range 100 {
				wg.Go(func() {
					if err := q.wait(t.Context(), guestVM(id), "p", n.start); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			took := time.Since(n.start)
			cancel()
			other.Wait()
			if most := boot + 100*n.service + askPause; took > most {
				t.Errorf("all guests are up after %v, but were found only after %v", boot, took)
			}
			if n.most != 1 || worst > 0 {
				t.Errorf("%d questions at once; another user had to wait %v", n.most, worst)
			}
		})
	}
}

// Guests that hang cost those that boot one question.
func TestHungGuestsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(20, -1)
		q := n.prober()
		ctx, cancel := context.WithCancel(t.Context())
		var hung sync.WaitGroup
		for id := range 20 {
			hung.Go(func() { _ = q.wait(ctx, guestVM(id), "p", n.start) })
		}
		time.Sleep(10 * time.Minute)
		n.mu.Lock()
		n.boot[20] = time.Since(n.start) + 6*time.Second
		n.mu.Unlock()
		if err := q.wait(t.Context(), guestVM(20), "q", time.Now()); err != nil {
			t.Error(err)
		}
		if late := time.Since(n.start) - n.boot[20]; late > 4*time.Second {
			t.Errorf("a guest was found %v after it was up", late)
		}
		cancel()
		hung.Wait()
		time.Sleep(time.Minute) // for the last question to end
		synctest.Wait()
		if n.most != 1 {
			t.Errorf("%d questions at once", n.most)
		}
	})
}

// Where Proxmox says at once that an agent does not answer, a guest is found
// almost at once, also the first, and one that never comes up gets its rest.
func TestProberIsBriskWhereThatIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(2, 6*time.Second)
		n.brisk, n.service, n.boot[1] = true, time.Millisecond, -1
		q := n.prober()
		for range 2 {
			n.start, n.count[0] = time.Now(), 0
			if err := q.wait(t.Context(), guestVM(0), "p", n.start); err != nil {
				t.Fatal(err)
			}
			if late := time.Since(n.start) - n.boot[0]; late > 15*time.Millisecond || n.count[0] > 600 {
				t.Errorf("a guest was found %v after it was up, with %d questions", late, n.count[0])
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		n.start = time.Now()
		_ = q.wait(ctx, guestVM(1), "q", n.start)
		synctest.Wait()
		if n.count[1] > 3000 {
			t.Errorf("%d questions in ten minutes to a guest that is off", n.count[1])
		}
	})
}

// From the second guest of a profile on it takes one question, that is asked a
// little before the guest can be up. What was learned late does no harm.
func TestProberLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(1, 20*time.Second)
		q := n.prober()
		boot := func(wait time.Duration) (late time.Duration, questions int) {
			n.start, n.count[0] = time.Now(), 0
			time.Sleep(wait)
			if err := q.wait(t.Context(), guestVM(0), "p", n.start); err != nil {
				t.Fatal(err)
			}
			return time.Since(n.start) - n.boot[0], n.count[0]
		}
		if late, _ := boot(0); late > 2*time.Second {
			t.Errorf("the first guest was found %v after it was up", late)
		}
		for range samples {
			boot(time.Minute) // nobody waited for it
		}
		if late, questions := boot(0); late > 0 || questions != 1 {
			t.Errorf("the next was found %v after it was up, with %d questions", late, questions)
		}
	})
}

// Who gives up leaves a question behind, and its worker held. The next one is
// asked only after that, and the guest is asked no more.
func TestProberOutlivesWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(2, -1)
		n.boot[1] = 0
		q := n.prober()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := q.wait(ctx, guestVM(0), "p", n.start); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, pve.AgentNotRunning) {
			t.Errorf("wait: %v", err)
		}
		if err := q.wait(t.Context(), guestVM(1), "p", n.start); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n.most != 1 || n.count[0] != 2 {
			t.Errorf("%d questions at once; %d to the one nobody waits for", n.most, n.count[0])
		}
		if len(q.nodes) != 0 {
			t.Error("the prober goes on, though nobody waits")
		}
	})
}

// A guest that does not come up is asked ever less.
func TestProberRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(1, -1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_ = n.prober().wait(ctx, guestVM(0), "p", n.start)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.count[0] > 90 {
			t.Errorf("%d questions in ten minutes", n.count[0])
		}
	})
}

// An answer that more questions won't change ends the wait.
func TestProberEndsAtOnce(t *testing.T) {
	q := &prober{ping: func(context.Context, pve.VM) (time.Time, error) {
		return time.Now(), &pve.Error{Kind: pve.NotRunning, Message: "VM 100 is not running"}
	}}
	if err := q.wait(t.Context(), guestVM(100), "p", time.Now()); !errors.Is(err, pve.NotRunning) {
		t.Errorf("wait: %v", err)
	}
}
