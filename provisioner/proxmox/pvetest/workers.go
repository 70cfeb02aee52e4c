package pvetest

import (
	"math/rand/v2"
	"time"
)

// workersPerNode is how many processes of pvedaemon do all the writes of all
// users of a node, one at a time each (measured).
const workersPerNode = 3

// proxyPatience is how long pveproxy waits for pvedaemon (AnyEvent.pm:819).
const proxyPatience = 30 * time.Second

// worker is one process of pvedaemon: a queue.
type worker struct {
	queued int // calls waiting or running, guarded by Server.mu
	turn   chan struct{}
}

// pick finds a worker: an idle one, else any. A process that is busy keeps
// the connections it has already accepted, so queues are uneven (measured: of
// 12 calls of 3 s each one took 21 s).
func (n *Node) pick() *worker {
	var idle []*worker
	for i := range n.workers {
		if n.workers[i] == nil {
			n.workers[i] = &worker{turn: make(chan struct{}, 1)}
		}
		if n.workers[i].queued == 0 {
			idle = append(idle, n.workers[i])
		}
	}
	w := n.workers[rand.IntN(workersPerNode)]
	if len(idle) > 0 {
		w = idle[rand.IntN(len(idle))]
	}
	w.queued++
	return w
}

// inWorker waits for the worker and does f there. When it takes longer than
// pveproxy's patience the client gets a 596, and the work goes on.
func (s *Server) inWorker(w *worker, f func() (any, *apiError)) (any, *apiError) {
	type result struct {
		data any
		err  *apiError
	}
	done := make(chan result, 1)
	s.work.Go(func() {
		w.turn <- struct{}{}
		data, err := f()
		<-w.turn
		s.mu.Lock()
		w.queued--
		s.mu.Unlock()
		done <- result{data, err}
	})
	s.mu.Lock()
	patience := s.patience(proxyPatience, 10)
	s.mu.Unlock()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case r := <-done:
		return r.data, r.err
	case <-t.C:
		return nil, &apiError{status: 596, message: "Connection timed out", bare: true}
	}
}
