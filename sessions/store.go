package sessions

import (
	"context"
	"errors"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Errors that a Store returns, wrapped.
var (
	// ErrNoRecord: there is no such sandbox.
	ErrNoRecord = errors.New("no such record")
	// ErrConflict: the sandbox is not in a state that allows the change, or
	// one of that id exists.
	ErrConflict = errors.New("record is in another state")
	// ErrOverQuota: its owner would have more than the quota.
	ErrOverQuota = errors.New("over quota")
	// ErrStoreUnavailable: the store can't be read or written now: the disk is
	// full, another process holds the file. Nothing was changed.
	ErrStoreUnavailable = errors.New("store unavailable")
)

// Store keeps sandboxes and events. The store package implements it. Each
// method is one transaction: all of it happens, its event included, or nothing.
type Store interface {
	// Add records a new sandbox. If its owner has a live one of the same name,
	// that is returned instead and existing is true. All sandboxes of the owner
	// that are not DESTROYED count against the quota.
	//
	// Errors: ErrConflict, ErrOverQuota.
	Add(ctx context.Context, sb Sandbox, quota Quota, ch Change) (kept Sandbox, existing bool, err error)

	// Claim is Add, unless the pool of sb's profile has a READY member of sb's
	// recipe that fits. The oldest such becomes sb but for its id and its machine:
	// it is BOOTING, with keys of the next generation, and is what is kept. Its
	// event is "claim".
	//
	// Errors: ErrConflict, ErrOverQuota.
	Claim(ctx context.Context, sb Sandbox, quota Quota, fit Fit, ch Change) (kept Sandbox, existing bool, err error)

	// Trust makes the record of a live sandbox what sb, which its machine's papers
	// tell, says of its owner, name, times, state and keys: it is from before the
	// machine was handed over. A name that its owner has given to another one since
	// is left out. Its event is "trust".
	//
	// Errors: ErrConflict, also if the keys are not of a later generation.
	Trust(ctx context.Context, sb Sandbox, ch Change) (kept Sandbox, err error)

	// Sandbox returns one record. Errors: ErrNoRecord.
	Sandbox(ctx context.Context, id string) (Sandbox, error)

	// List returns the records that q selects.
	List(ctx context.Context, q Query) ([]Sandbox, error)

	// Usage adds up what the sandboxes of owner that are not DESTROYED take;
	// those of all owners if it is empty.
	Usage(ctx context.Context, owner string) (Quota, error)

	// Move changes the state, if [State.CanMove] allows it from the recorded one
	// and the sandbox is still ch.Owner's.
	//
	// Errors: ErrNoRecord, ErrConflict.
	Move(ctx context.Context, id string, to State, ch Change) (Sandbox, error)

	// Intend records the handle of the machine that is about to be made for a
	// sandbox in PROVISIONING, or anew for one in BOOTING.
	//
	// Errors: ErrConflict, also if there is no record.
	Intend(ctx context.Context, id, handle string) error

	// SetEnd changes the end of a sandbox that is live, not past its end at
	// ch.At, and may live that long.
	//
	// Errors: ErrNoRecord, ErrConflict.
	SetEnd(ctx context.Context, id string, end time.Time, ch Change) (Sandbox, error)

	// Resize changes what a live sandbox has, if its owner then has no more memory
	// than the quota. Zero fields of the size stay. Its event is "resize".
	//
	// Errors: ErrNoRecord, ErrConflict, ErrOverQuota.
	Resize(ctx context.Context, id string, size Size, quota Quota, ch Change) (Sandbox, error)

	// Log appends an event.
	Log(ctx context.Context, e Event) error

	// Events returns the events that q selects, in the order in which they were
	// written, and the number of the last one that was looked at: where to go on.
	// If there is none it waits for one, up to q.Wait.
	Events(ctx context.Context, q EventQuery) (list []Event, last int64, err error)

	// Prune forgets DESTROYED sandboxes that ended before a time, events from
	// before it, and all but the latest keepEvents events; a bounded number of
	// each. more says that there are more to forget.
	Prune(ctx context.Context, before time.Time, keepEvents int) (more bool, err error)
}

// Fit says which members of a pool may be claimed.
type Fit struct {
	EndsAfter time.Time
	Except    []string // ids
}

// Query selects records. Zero fields select all.
type Query struct {
	Owner   string
	Backend string
	Profile []string // one of these
	Ending  bool     // also those that ended but are not DESTROYED yet
	ByEnd   bool     // the soonest end first; otherwise the oldest first
	After   Mark     // only what comes after it, the oldest first
	Limit   int
}

// Mark is a place among sandboxes, the oldest first. Zero is the beginning.
type Mark struct {
	Created time.Time
	ID      string
}

// Change says who changes a record, when and why.
type Change struct {
	At      time.Time
	By      string               // principal, or empty for ourselves
	Reason  string               // safe to show; empty leaves the recorded one
	Machine *provisioner.Machine // nil leaves what is recorded of it
	Due     bool                 // ErrConflict unless the sandbox is past its end at At: it may have been given a later one
	Owner   string               // whose it must be, or the change is a conflict; empty is anybody's
}

// EventQuery selects events. Zero fields select all.
type EventQuery struct {
	After     int64 // only those with a higher number
	Since     time.Time
	Sandbox   string
	Principal string
	Limit     int           // must be positive
	Wait      time.Duration // for the first
}

// What is the kind of an [Event]. The comments are what docs/reference.md says.
type What string

// What happens.
const (
	EventCreate      What = "create"       // a sandbox was asked for and recorded, or found by its machine; the detail says if so
	EventClaim       What = "claim"        // a machine that was made ahead became somebody's; the detail is its pool
	EventTrust       What = "trust"        // a record that was older than its machine was corrected by the machine's papers
	EventState       What = "state"        // the state of a sandbox changed, for the reason in the detail
	EventExtend      What = "extend"       // a sandbox got another end, later or sooner, which the detail is
	EventResize      What = "resize"       // a sandbox got other cores or memory, or more disk, as the detail says
	EventMigrate     What = "migrate"      // its machine was moved to another node, but not by AgentLab
	EventTokenCreate What = "token_create" // a token was made; the detail is its id and name
	EventTokenRevoke What = "token_revoke" // a token was revoked; the detail is its id and name
	EventCall        What = "call"         // a tool was called, or a terminal opened; the detail is the outcome
	EventRead        What = "read"         // a resource was read; the detail is the outcome
	EventTransfer    What = "transfer"     // a file was moved by URL; the detail is the outcome
	EventRefused     What = "refused"      // a principal was refused calls for a limit, which the detail is; the arguments say how many
)

// Event is one line of the record of what happened. It never holds what a
// command or a file contained.
type Event struct {
	Seq       int64  // number, from 1; the store gives it
	Hash      []byte // of it and all before it; the store makes it
	At        time.Time
	Sandbox   string
	Principal string // empty for ourselves
	What      What
	From, To  State  // of a change of state
	Detail    string // reason or outcome; of what was refused, the limit
	Duration  time.Duration
	Tool      string // that was called; of a read the name of the resource, of a transfer "upload" or "download"
	Arguments string // of a call, a read or a transfer, as JSON, without contents and secrets; of what was refused, how often
}
