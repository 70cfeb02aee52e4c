package sessions

import (
	"context"
	"errors"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Watcher is told what became of machines, to count it. An outcome is one of
// few: "ok", "canceled", "failed", "not_ours" or the name of a Kind.
type Watcher interface {
	// Created is the making of a sandbox that has ended, and how long after the
	// request for it.
	Created(backend, outcome string, took time.Duration)
	// Destroyed is one try to remove a machine, without the wait for its turn.
	Destroyed(backend, outcome string, took time.Duration)
	// Claimed is a request that a member of the pool of a profile would do for. It
	// was "warm", with one that was handed over, "failed", with one that was not,
	// or "cold": there was none.
	Claimed(profile, outcome string)
	// Stepped is a step of the making of a sandbox that has ended: the "wait" for
	// its turn, to "provision" its machine, the "boot" until it answers, or the
	// "handover" of one that was made ahead.
	Stepped(backend, step, outcome string, took time.Duration)
	// Moved is a change of state.
	Moved(backend string, to State)
	// Ended is that a sandbox left the live states, for which of the others, and
	// how long after the request for it.
	Ended(backend string, to State, lived time.Duration)
}

// unwatched is the Watcher of nobody.
type unwatched struct{}

func (unwatched) Created(string, string, time.Duration)   {}
func (unwatched) Destroyed(string, string, time.Duration) {}
func (unwatched) Claimed(string, string)                  {}

func (unwatched) Stepped(string, string, string, time.Duration) {}
func (unwatched) Moved(string, State)                           {}
func (unwatched) Ended(string, State, time.Duration)            {}

// step does a step of the making of a sandbox, and tells how it went. It is a span
// of the request that wanted the sandbox.
func (m *Manager) step(ctx context.Context, backend, name string, do func(ctx context.Context) error) error {
	start := time.Now()
	ctx, end := span.Start(ctx, "step "+name, "agentlab.backend", backend)
	err := do(ctx)
	end(ofMachine(err))
	if err == nil || m.ctx.Err() == nil { // else it goes on after the next start
		m.Watch.Stepped(backend, name, ofMachine(err), time.Since(start))
	}
	return err
}

// Load is how busy a backend is with making machines.
type Load struct {
	Backend string
	Free    int // slots that nobody uses
	Waiting int // sandboxes that wait for one
}

// Load returns how busy each backend is.
func (m *Manager) Load() []Load {
	m.init()
	var all []Load
	for name, slots := range m.slots {
		free, waiting, _ := slots.make.Load("")
		all = append(all, Load{name, free, waiting})
	}
	return all
}

// ofMachine is the outcome of what was done with a machine.
func ofMachine(err error) string {
	switch {
	case errors.Is(err, provisioner.ErrNotOurs):
		return "not_ours"
	case errors.Is(err, provisioner.ErrUnavailable):
		return Unavailable.String()
	}
	return outcome(err)
}
