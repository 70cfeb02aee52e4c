package sessions

import (
	"errors"
	"time"

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
}

// unwatched is the Watcher of nobody.
type unwatched struct{}

func (unwatched) Created(string, string, time.Duration)   {}
func (unwatched) Destroyed(string, string, time.Duration) {}
func (unwatched) Claimed(string, string)                  {}

// removal is the outcome of a try to remove a machine.
func removal(err error) string {
	switch {
	case errors.Is(err, provisioner.ErrNotOurs):
		return "not_ours"
	case errors.Is(err, provisioner.ErrUnavailable):
		return Unavailable.String()
	}
	return outcome(err)
}
