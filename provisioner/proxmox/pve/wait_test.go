package pve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const latency = 2 * time.Millisecond // of each call to the tasks below

// tasks is a Transport to nodes that run tasks; time is the bubble's.
type tasks struct {
	exit map[pve.UPID]string
	ends map[pve.UPID]time.Time
	fail func(pve.UPID) error                   // of a status call, nil for none
	hang func(ctx context.Context, id pve.UPID) // before a status call answers
	hide bool                                   // the list shows nothing

	mu     sync.Mutex
	status int
	lists  int
	looks  []time.Time
}

func upid(node, kind string, n int) pve.UPID {
	return pve.UPID(fmt.Sprintf("UPID:%s:%08X:00000000:6B047258:%s:%d:root@pam!mcp:", node, n, kind, n))
}

func newTasks() *tasks {
	return &tasks{exit: map[pve.UPID]string{}, ends: map[pve.UPID]time.Time{}}
}

func (s *tasks) start(id pve.UPID, d time.Duration) pve.UPID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[id], s.exit[id] = time.Now().Add(d), "OK"
	return id
}

func (s *tasks) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	t := time.NewTimer(latency)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
	}
	if len(r.Path) == 3 {
		return s.list(r.Path[1])
	}
	id := pve.UPID(r.Path[3])
	if s.hang != nil {
		s.hang(ctx, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status++
	s.looks = append(s.looks, time.Now())
	if s.fail != nil {
		if err := s.fail(id); err != nil {
			return nil, err
		}
	}
	if time.Now().Before(s.ends[id]) {
		return json.Marshal(map[string]any{"upid": id, "status": "running"})
	}
	return json.Marshal(map[string]any{"upid": id, "status": "stopped", "exitstatus": s.exit[id]})
}

func (s *tasks) list(node string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	list := []any{}
	for id, end := range s.ends {
		if !s.hide && id.Node() == node && time.Now().Before(end) {
			list = append(list, map[string]any{"upid": id, "status": "RUNNING", "saved": "0"})
		}
	}
	return json.Marshal(list)
}

// elapsed is how long Wait took.
func elapsed(t *testing.T, c *pve.Client, id pve.UPID) time.Duration {
	t.Helper()
	start := time.Now()
	if _, err := c.Wait(t.Context(), id); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

func TestWaitAdaptsToTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		for i, d := range []time.Duration{0, 30 * time.Millisecond, 400 * time.Millisecond, 3 * time.Second, 2 * time.Minute} {
			s.looks, s.status = nil, 0
			began := time.Now()
			late := elapsed(t, c, s.start(upid("pve", fmt.Sprint("kind", i), i), d)) - d
			if most := 10*time.Millisecond + min(d/8, time.Second); late > most {
				t.Errorf("a task of %v was noticed %v late, more than %v", d, late, most)
			}
			if first := s.looks[0].Sub(began); first > 10*time.Millisecond {
				t.Errorf("first look after %v", first)
			}
			for i := 1; i < len(s.looks); i++ {
				if gap := s.looks[i].Sub(s.looks[i-1]); gap > time.Second+2*latency {
					t.Errorf("a pause of %v", gap)
				}
			}
			if most := 60 + int(d/time.Second); s.status > most {
				t.Errorf("a task of %v took %d looks", d, s.status)
			}
		}
	})
}

// A type of task that was seen before is looked at when it is about to end.
func TestWaitLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		for i := range 3 {
			elapsed(t, c, s.start(upid("pve", "qmstart", i), 1200*time.Millisecond))
		}
		s.status = 0
		late := elapsed(t, c, s.start(upid("pve", "qmstart", 9), 1200*time.Millisecond)) - 1200*time.Millisecond
		if late > 25*time.Millisecond || s.status > 15 {
			t.Errorf("noticed %v late, after %d looks", late, s.status)
		}
		// One that takes unusually long, or short, is noticed as well.
		if late := elapsed(t, c, s.start(upid("pve", "qmstart", 10), time.Minute)) - time.Minute; late > 1100*time.Millisecond {
			t.Errorf("a long one was noticed %v late", late)
		}
		if took := elapsed(t, c, s.start(upid("pve", "qmstart", 11), 0)); took > 10*time.Millisecond {
			t.Errorf("one that ended at once took %v", took)
		}
	})
}

func TestWaitReportsHowATaskEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		id := s.start(upid("pve", "qmclone", 1), time.Second)
		s.exit[id] = "unable to create VM 130: config file already exists"
		task, err := c.Wait(t.Context(), id)
		var e *pve.Error
		if !pve.Taken(err, 130) || !errors.As(err, &e) || e.Task != id || !task.Done() {
			t.Errorf("task %+v, error %v", task, err)
		}
		s.exit[id] = "WARNINGS: 2"
		if task, err := c.Wait(t.Context(), id); err != nil || task.Exit != "WARNINGS: 2" {
			t.Errorf("task %+v, error %v", task, err)
		}
	})
}

func TestWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		id := s.start(upid("pve", "qmclone", 1), time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		other := make(chan error)
		go func() { _, err := c.Wait(t.Context(), id); other <- err }()
		start := time.Now()
		if _, err := c.Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
		if err := <-other; err != nil { // is not affected
			t.Errorf("the other waiter: %v", err)
		}
		looked := s.status
		time.Sleep(time.Hour)
		if s.status != looked {
			t.Errorf("%d looks with no waiter left", s.status-looked)
		}
	})
}

// 100 tasks on 4 nodes: the list of each node replaces one call per task.
func TestWaitForManyTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		var wg sync.WaitGroup
		for i := range 100 {
			time.Sleep(13 * time.Millisecond) // so that their looks don't fall together by themselves
			id := s.start(upid(fmt.Sprint("pve", i%4), "qmclone", i), 5*time.Second)
			wg.Go(func() {
				elapsed(t, c, id)
				if over := time.Since(s.ends[id]); over > 500*time.Millisecond {
					t.Errorf("%s was noticed %v late", id, over)
				}
			})
		}
		wg.Wait()
		if s.status > 300 || s.lists > 1100 {
			t.Errorf("%d looks at single tasks and %d at lists", s.status, s.lists)
		}
	})
}

// A token may not see its tasks in the list; each is then asked for by itself.
func TestWaitWithoutAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		s.hide = true
		c := &pve.Client{Transport: s}
		var wg sync.WaitGroup
		for i := range 8 {
			id := s.start(upid("pve", "qmclone", i), 2*time.Second)
			wg.Go(func() {
				if took := elapsed(t, c, id); took > 2300*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		}
		wg.Wait()
		if s.lists > 2 {
			t.Errorf("the list that shows nothing was read %d times", s.lists)
		}
	})
}

// A dead worker may stay in the list.
func TestWaitDistrustsAStaleList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		stale := &stale{tasks: s}
		c := &pve.Client{Transport: stale}
		var wg sync.WaitGroup
		for i := range 4 {
			id := s.start(upid("pve", "qmclone", i), time.Second)
			stale.ids = append(stale.ids, id)
			wg.Go(func() {
				if took := elapsed(t, c, id); took > 12*time.Second {
					t.Errorf("took %v", took)
				}
			})
		}
		wg.Wait()
	})
}

type stale struct {
	*tasks
	ids []pve.UPID
}

func (s *stale) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	if len(r.Path) != 3 {
		return s.tasks.Do(ctx, r)
	}
	var list []any
	for _, id := range s.ids {
		list = append(list, map[string]any{"upid": id, "status": "RUNNING"})
	}
	return json.Marshal(list)
}

func TestWaitOutlastsAShortOutage(t *testing.T) {
	for kind, outage := range map[pve.Kind]time.Duration{
		pve.Unreachable: 30 * time.Second, pve.Interrupted: 30 * time.Second, pve.ConnectionLost: 30 * time.Second, pve.NodeUnreachable: 30 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newTasks()
			c := &pve.Client{Transport: s}
			up := time.Now().Add(outage)
			s.fail = func(pve.UPID) error {
				if time.Now().Before(up) {
					return &pve.Error{Kind: kind, Message: "down"}
				}
				return nil
			}
			if took := elapsed(t, c, s.start(upid("pve", "qmclone", 1), time.Second)); took > outage+2*time.Second {
				t.Errorf("%v: took %v", kind, took)
			}
		})
	}
}

func TestWaitGivesUp(t *testing.T) {
	tests := []struct {
		kind pve.Kind
		most time.Duration
	}{
		{pve.Unreachable, 65 * time.Second},
		{pve.Unauthorized, 10 * time.Millisecond},
		{pve.NotFound, 10 * time.Millisecond},
		{pve.Permission, 10 * time.Millisecond},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			s := newTasks()
			s.fail = func(pve.UPID) error { return &pve.Error{Kind: tt.kind, Message: "no"} }
			start := time.Now()
			_, err := (&pve.Client{Transport: s}).Wait(t.Context(), s.start(upid("pve", "qmclone", 1), time.Hour))
			if !errors.Is(err, tt.kind) || time.Since(start) > tt.most {
				t.Errorf("%v: error %v after %v", tt.kind, err, time.Since(start))
			}
		})
	}
}

// A status call that hangs delays neither other nodes nor new tasks of its own.
func TestWaitIsNotHeldUpByAHangingCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTasks()
		c := &pve.Client{Transport: s}
		slow := s.start(upid("pve", "qmclone", 1), time.Millisecond)
		s.hang = func(ctx context.Context, id pve.UPID) {
			if id == slow {
				<-ctx.Done()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, err := c.Wait(ctx, slow); done <- err }()
		time.Sleep(time.Second)
		for i, node := range []string{"pve", "other"} {
			if took := elapsed(t, c, s.start(upid(node, "qmstart", i+2), 50*time.Millisecond)); took > 80*time.Millisecond {
				t.Errorf("a task on %s took %v", node, took)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}
