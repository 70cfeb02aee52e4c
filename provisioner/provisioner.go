// Package provisioner says what a backend must do: make machines, remove them,
// list those of this installation, and open a channel to their inside.
//
// A machine carries its own [Papers], so that the record in the store and the
// machine can vouch for each other: neither alone is enough to destroy
// anything, and a lost store is rebuilt from what List returns.
package provisioner

import (
	"context"
	"errors"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Errors that a Provisioner returns, wrapped.
var (
	// ErrNotOurs: the machine's papers are missing, forged, or another's.
	ErrNotOurs = errors.New("machine is not ours")
	// ErrNotFound: there is no such machine.
	ErrNotFound = errors.New("no such machine")
	// ErrExhausted: the backend has no room (disk, memory, ids).
	ErrExhausted = errors.New("backend has no room")
	// ErrUnavailable: the backend can't be used now; the text says what mends it.
	ErrUnavailable = errors.New("backend unavailable")
	// ErrInvalid: the spec asks for what this backend can't do.
	ErrInvalid = errors.New("invalid machine spec")
)

// Provisioner makes machines on one backend. Every method may be called at
// once from many goroutines, also for the same machine.
type Provisioner interface {
	// Create returns a started machine, whose guest may still be booting. It is
	// idempotent by spec.Papers.Sandbox: a second call, also after a crash,
	// adopts what the first one left. When it fails, nothing is left.
	//
	// Errors: ErrInvalid, ErrExhausted, ErrUnavailable.
	Create(ctx context.Context, spec Spec) (Machine, error)

	// Destroy removes the machine and all that belongs to it. It returns nil
	// if the machine is already gone, and ErrNotOurs if the papers on the
	// machine that ref names don't agree with it; that one is left as it is. If
	// ref has no handle and something that may be it can't be read now, the
	// error is ErrUnavailable, until all was looked at.
	Destroy(ctx context.Context, ref Ref) error

	// List returns every machine of this installation, whole or half-made, and
	// no other, in a number of calls that does not grow with their number. A
	// machine that may be ours and can't be read now is listed as Unread.
	List(ctx context.Context) ([]Machine, error)

	// Dial opens a channel to the guest, waiting until ctx ends for it to boot.
	//
	// Errors: ErrNotFound, ErrNotOurs, guest.ErrUnreachable.
	Dial(ctx context.Context, ref Ref) (guest.Conn, error)
}

// Relabeler is the ability to change the papers of a living machine. Every
// backend has it: extending a sandbox needs it.
type Relabeler interface {
	// Relabel replaces the papers on the machine. Sandbox and Instance stay.
	//
	// Errors: ErrNotFound, ErrNotOurs.
	Relabel(ctx context.Context, ref Ref, papers Papers) error
}

// Checker is the ability to say, before the first machine, why none can be made.
type Checker interface {
	// Check returns nil or an error that says what is missing and how to mend it.
	Check(ctx context.Context) error
}

// Vetter is the ability to say of a machine, before it is made, why none can be
// made like that here: what it is made from is missing or not fit, or it is more
// than any place has. What there is room for just now is another matter.
type Vetter interface {
	// Vet returns nil or an error that says what is missing and how to mend it. Of
	// spec it looks at what a profile says, and not at the papers.
	//
	// Errors: ErrInvalid, ErrUnavailable.
	Vet(ctx context.Context, spec Spec) error
}

// Guarder is the ability to hold machines to limits that nothing else holds
// them to.
type Guarder interface {
	// Guard watches the machines, and ends one that is over a limit, until ctx
	// ends; it returns at once when there is nothing to guard.
	Guard(ctx context.Context)
}

// Trimmer is the ability to remove a machine that a sandbox has besides its own.
// A backend has it that lists any as Spare.
type Trimmer interface {
	// Trim removes the machine that ref names, if it is spare, and leaves the
	// sandbox its own. It returns nil if the machine is already gone.
	//
	// Errors: ErrNotOurs, also of a machine that is not spare; ErrUnavailable.
	Trim(ctx context.Context, ref Ref) error
}

// Stopper is the ability to switch a machine off and on again. What is on its
// disk stays, and so do its papers and the keys of its channel; what ran in it and
// its channels end.
type Stopper interface {
	// Stop switches the machine off: its guest is asked to shut down, and if that
	// takes too long, the power is taken away. It returns nil if the machine is off
	// already. If ctx ends first, it may be off or not.
	//
	// Errors: ErrNotFound, ErrNotOurs, ErrUnavailable.
	Stop(ctx context.Context, ref Ref) error

	// Start switches the machine on; its guest may still be booting then. It
	// returns nil if the machine runs already.
	//
	// Errors: ErrNotFound, ErrNotOurs, ErrExhausted, ErrUnavailable; ErrInvalid of a
	// machine that was never made to the end.
	Start(ctx context.Context, ref Ref) error
}

// Suspender is the ability to hold a machine still in memory and let it go on.
type Suspender interface {
	// Pause holds the machine still, with all that runs in it. It returns nil if
	// that is so already.
	//
	// Errors: ErrNotFound, ErrNotOurs, ErrUnavailable, also of a machine that is off.
	Pause(ctx context.Context, ref Ref) error

	// Resume lets the machine go on. It returns nil if it was not paused.
	//
	// Errors: those of Pause.
	Resume(ctx context.Context, ref Ref) error
}

// Size is what a machine may use. Zero fields are left as they are.
type Size struct{ Cores, MemoryMB, DiskMB int }

// Resizer is the ability to give a machine that is off other cores or memory, or
// more disk.
type Resizer interface {
	// Resize gives the machine that much, and the papers, as by Relabel. It can be
	// repeated, also after a crash in its middle.
	//
	// Errors: ErrInvalid, ErrNotFound, ErrNotOurs, ErrExhausted, ErrUnavailable, also
	// of a machine that runs.
	Resize(ctx context.Context, ref Ref, papers Papers, size Size) error
}

// Pooler is the ability to hand a machine that was made ahead of demand to the
// owner who claims it.
type Pooler interface {
	// Recipe returns a word that stays the same as long as a machine made now by
	// that spec would be made from the same root or template: it tells machines
	// of a pool that are out of date.
	//
	// Errors: ErrInvalid, ErrUnavailable.
	Recipe(ctx context.Context, spec Spec) (string, error)

	// Rekey makes the running machine that ref names the one that spec tells of,
	// without a restart: it gets spec.Papers, as by Relabel, and inside it a new
	// host name, a machine-id no other machine has (which is read back), fresh
	// random bytes, and the channel keys of generation spec.Papers.Keys, while
	// those of earlier generations are good for nothing any more. Resources
	// stay. It can be repeated, also after a crash in its middle.
	//
	// The machine must have been made as Spec.Pooled, its papers be of that
	// generation or of the one before, and no command may run in it. What its
	// Processes knew of is forgotten.
	//
	// conn is an open channel to the machine, which is closed in any case; nil if
	// there is none. What is returned is a new one, over which the guest has
	// answered.
	//
	// Errors: ErrInvalid, ErrNotFound, ErrNotOurs, guest.ErrUnreachable.
	Rekey(ctx context.Context, ref Ref, spec Spec, conn guest.Conn) (guest.Conn, error)
}

// Ref names one machine. Handle is the backend's own name for it: a word, which
// stays the same, and maybe more while the machine is being made.
type Ref struct {
	Sandbox string
	Handle  string
}

// Machine is what a backend made.
type Machine struct {
	Ref
	Papers  Papers // verified: only machines whose papers verify are listed
	Running bool
	IP      string // empty if it has none, or if it will only be learnt when it is dialled
	Home    string // directory where a user starts
	OS      string // for people: "Debian GNU/Linux 12 (gVisor)"
	Place   string // of a backend that has several: in which it is now, such as the node of a cluster

	// Unread: the machine is there, but what it is can't be read now, such as
	// that of a node which is down. Of the rest only Handle is set, and nothing
	// may be concluded from it, nor from the absence of whatever it may be.
	Unread bool

	// Spare: the sandbox has another machine, which is its own; this one came
	// into being by a call whose answer was lost, and nobody has ever used it.
	// See [Trimmer].
	Spare bool
}

// SameHandle reports whether two handles of one backend name the same machine.
func SameHandle(a, b string) bool {
	first, _, _ := strings.Cut(a, " ")
	second, _, _ := strings.Cut(b, " ")
	return first != "" && first == second
}

// Spec says what machine to make.
type Spec struct {
	Papers   Papers
	Hostname string
	Root     string // what it is made from; the backend's own syntax, empty is its default
	Cores    int
	MemoryMB int
	DiskMB   int
	MaxProcs int    // processes and threads in the guest
	Network  string // "none"; more to come
	Pooled   bool   // it is made ahead of demand, for [Pooler].Rekey

	// Handle is what Intend recorded last for this sandbox, before a crash;
	// empty if nothing.
	Handle string
	// Intend records what the machine is going to be, before it is made: a
	// machine that a crash leaves without papers can be found by no other way.
	// If it fails, nothing is made. A backend whose machines have papers from
	// the first moment on does not call it; nil records nothing.
	Intend func(ctx context.Context, handle string) error
	// Started, if it is not nil, is called when the machine was started. A
	// backend that can make it elsewhere then returns from Create only when the
	// guest is up: one that does not come up is removed and made anew in another
	// place, and Intend and Started are called for that one, too. If Started
	// fails, Create does. If ctx ends while the guest boots, the machine is left
	// to whom Started told of it.
	Started func(ctx context.Context, m Machine) error
}

// As finds an ability T in p, looking through wrappers that have Unwrap, as
// errors.As does for errors.
func As[T any](p Provisioner) (T, bool) {
	for p != nil {
		if t, ok := p.(T); ok {
			return t, true
		}
		w, ok := p.(interface{ Unwrap() Provisioner })
		if !ok {
			break
		}
		p = w.Unwrap()
	}
	var none T
	return none, false
}
