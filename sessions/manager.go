package sessions

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Manager keeps sandboxes. Its exported fields may be changed until the first
// method call.
type Manager struct {
	Store    Store
	Backends map[string]provisioner.Provisioner
	Profiles []Profile // the first is the default
	Instance string    // id of this installation, on the papers of its machines
	Quota    Quota     // of each principal
	Log      *slog.Logger
	Now      func() time.Time // nil is time.Now
}

// Quota limits what one principal has at a time. Zero is no limit.
type Quota struct {
	Sandboxes int
	MemoryMB  int
}

// CreateRequest asks for a sandbox. Zero values are the profile's.
type CreateRequest struct {
	Profile  string
	Name     string
	TTL      time.Duration
	Cores    int
	MemoryMB int
	DiskMB   int
	Network  string
	Wait     time.Duration // how long to wait until it is READY
}

// Create makes a sandbox and waits up to req.Wait until it is READY. existing
// says that the caller had a live one of that name, which is returned instead.
// The making goes on, on the Manager's own context, when ctx or the wait ends.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (sb Sandbox, existing bool, err error) {
	panic("not yet")
}

// List returns the caller's sandboxes that have not ended, the oldest first.
func (m *Manager) List(ctx context.Context) ([]Sandbox, error) { panic("not yet") }

// Get returns a sandbox of the caller's and waits up to wait until it is READY
// or has ended.
func (m *Manager) Get(ctx context.Context, id string, wait time.Duration) (Sandbox, error) {
	panic("not yet")
}

// Extend moves the end of a sandbox to ttl from now.
func (m *Manager) Extend(ctx context.Context, id string, ttl time.Duration) (Sandbox, error) {
	panic("not yet")
}

// Destroy destroys a sandbox and waits until its machine is gone. gone says
// that there was none: an unknown id, another's, or one destroyed before.
func (m *Manager) Destroy(ctx context.Context, id string) (gone bool, err error) { panic("not yet") }

// Use gives fn the channel to a sandbox of the caller's, waiting up to wait
// until it is READY. action names what is done in the event that is kept of it.
func (m *Manager) Use(ctx context.Context, id, action string, wait time.Duration, fn func(ctx context.Context, sb Sandbox, conn guest.Conn) error) error {
	panic("not yet")
}

// Run reaps, reconciles and finishes what an earlier run left, until ctx ends.
func (m *Manager) Run(ctx context.Context) error { panic("not yet") }
