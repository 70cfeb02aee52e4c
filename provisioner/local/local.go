// Package local makes machines of this host: each is a gVisor sandbox, run
// detached by runsc, with agentlab-guest as its first process. Nothing needs
// to be installed and no daemon of ours needs to live for a machine to live.
//
// A machine is a directory below Dir that holds its OCI bundle, and in the
// bundle's annotations its papers. The directory appears whole, by a rename,
// before the first process starts, and vanishes by a rename after the last one
// is dead, so that at any moment each process and each directory of ours can be
// told by its papers. See docs/local-backend.md for what isolates and limits it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/keylock"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Provisioner makes machines on this host. Its exported fields may be changed
// until the first method call. One process at a time may use a Dir.
type Provisioner struct {
	Dir      string          // where machines and root file systems are kept; absolute
	Key      provisioner.Key // signs papers; the keys of the channels are derived from it
	Instance string          // id of this installation
	Runsc    string          // path of runsc; empty: next to our own binary, then PATH
	Guest    string          // path of agentlab-guest; empty: the same
	Platform string          // gVisor's: "systrap", "kvm" or "ptrace"; empty is systrap
	Log      *slog.Logger    // nil is none

	// Step, if it is not nil, does each step that changes something on this host,
	// so that a test can have a crash before or after it.
	Step func(name string, do func() error) error

	opened  sync.Mutex
	open    *state        // set by the first method call that succeeded in opening Dir
	machine keylock.Locks // serialises what changes one machine
	rootfs  keylock.Locks // serialises the making of one root file system
}

var (
	_ provisioner.Provisioner = (*Provisioner)(nil)
	_ provisioner.Relabeler   = (*Provisioner)(nil)
	_ provisioner.Checker     = (*Provisioner)(nil)
	_ provisioner.Vetter      = (*Provisioner)(nil)
	_ provisioner.Guarder     = (*Provisioner)(nil)
	_ provisioner.Pooler      = (*Provisioner)(nil)
	_ provisioner.Suspender   = (*Provisioner)(nil)
)

const (
	// cleanupTime is what undoing a failed Create may take: it goes on when
	// the caller has given up.
	cleanupTime = 20 * time.Second

	// guestHome is where a user starts.
	guestHome = "/workspace"
)

// Create implements [provisioner.Provisioner]. A machine of that id that runs
// is adopted as it is; what is left of one that does not is removed first.
func (p *Provisioner) Create(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	id := spec.Papers.Sandbox
	if err := spec.Check(p.Instance, minMemoryMB, "none"); err != nil {
		return provisioner.Machine{}, fmt.Errorf("create %s: %w", id, err)
	}
	st, err := p.state()
	if err != nil {
		return provisioner.Machine{}, fmt.Errorf("create %s: %w", id, err)
	}
	unlock, err := p.machine.Lock(ctx, id)
	if err != nil {
		return provisioner.Machine{}, err
	}
	defer unlock()

	m, err := p.adopt(ctx, st, id)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, provisioner.ErrNotFound) {
		return m, fmt.Errorf("create %s: %w", id, err)
	}
	m, err = p.make(ctx, st, spec)
	if err != nil {
		return m, fmt.Errorf("create %s: %w", id, err)
	}
	return m, nil
}

// adopt returns the running machine id. It removes what is left of one that
// does not run, and returns ErrNotFound when there is nothing (any more).
func (p *Provisioner) adopt(ctx context.Context, st *state, id string) (provisioner.Machine, error) {
	b, err := p.find(st, provisioner.Ref{Sandbox: id})
	if err != nil {
		return provisioner.Machine{}, err
	}
	switch running, err := st.running(id); {
	case err != nil:
		return provisioner.Machine{}, err
	case running:
		return b.machine(true), nil
	}
	if err := st.teardown(ctx, id); err != nil {
		return provisioner.Machine{}, fmt.Errorf("remove what an earlier attempt left: %w", err)
	}
	return provisioner.Machine{}, provisioner.ErrNotFound
}

// make makes a machine where none is. If it fails, nothing is left.
func (p *Provisioner) make(ctx context.Context, st *state, spec provisioner.Spec) (_ provisioner.Machine, err error) {
	if err := st.room(spec); err != nil {
		return provisioner.Machine{}, err
	}
	t, err := p.tools()
	if err != nil {
		return provisioner.Machine{}, err
	}
	if t.guest, err = st.guestBinary(t.guest); err != nil {
		return provisioner.Machine{}, noSpace(err)
	}
	root, err := p.root(ctx, st, t, spec.Root)
	if err != nil {
		return provisioner.Machine{}, err
	}
	id := spec.Papers.Sandbox
	b, err := p.newBundle(st, root, spec)
	if err != nil {
		return provisioner.Machine{}, err
	}
	defer func() {
		if err == nil {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if uerr := st.teardown(undo, id); uerr != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", uerr))
		}
	}()
	if err := st.start(ctx, t, spec); err != nil {
		return provisioner.Machine{}, err
	}
	return b.machine(true), nil
}

// Destroy implements [provisioner.Provisioner]. It needs neither runsc nor its
// state, and can be repeated from whatever point an earlier one reached.
func (p *Provisioner) Destroy(ctx context.Context, ref provisioner.Ref) error {
	st, err := p.state()
	if err != nil {
		return fmt.Errorf("destroy %s: %w", ref.Sandbox, err)
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	switch _, err := p.find(st, ref); {
	case errors.Is(err, provisioner.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("destroy %s: %w", ref.Sandbox, err)
	}
	if err := st.teardown(ctx, ref.Sandbox); err != nil {
		return fmt.Errorf("destroy %s: %w", ref.Sandbox, err)
	}
	return nil
}

// List implements [provisioner.Provisioner]. It starts no process: it reads
// three small files of each. What has no papers of ours is logged and left alone.
// What can't be read now, for want of file descriptors for example, is Unread.
func (p *Provisioner) List(ctx context.Context) ([]provisioner.Machine, error) {
	st, err := p.state()
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	entries, err := os.ReadDir(st.machinesDir())
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var machines []provisioner.Machine
	for _, e := range entries {
		id := e.Name()
		if isTemp(id) {
			continue // being made or removed
		}
		b, err := p.bundle(st, id)
		var running bool
		if err == nil {
			running, err = st.running(id)
		}
		if errors.Is(err, provisioner.ErrUnavailable) {
			st.log.WarnContext(ctx, "machine can't be read", "sandbox", id, "err", err)
			machines = append(machines, provisioner.Machine{Ref: provisioner.Ref{Handle: id}, Unread: true})
			continue
		}
		if errors.Is(err, fs.ErrNotExist) && !exists(filepath.Join(st.machinesDir(), id)) {
			continue // went away meanwhile
		}
		if err != nil {
			st.log.WarnContext(ctx, "left alone: a machine without papers of ours",
				"path", filepath.Join(st.machinesDir(), id), "err", err)
			continue
		}
		machines = append(machines, b.machine(running))
	}
	return machines, nil
}

// Relabel implements [provisioner.Relabeler].
func (p *Provisioner) Relabel(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers) error {
	if papers.Sandbox != ref.Sandbox || papers.Instance != p.Instance {
		return fmt.Errorf("relabel %s: papers are of %s of %s: %w",
			ref.Sandbox, papers.Sandbox, papers.Instance, provisioner.ErrInvalid)
	}
	st, err := p.state()
	if err != nil {
		return fmt.Errorf("relabel %s: %w", ref.Sandbox, err)
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := p.find(st, ref); err != nil {
		return fmt.Errorf("relabel %s: %w", ref.Sandbox, err)
	}
	if err := p.relabel(st, papers); err != nil {
		return fmt.Errorf("relabel %s: %w", ref.Sandbox, err)
	}
	return nil
}

// find returns the machine that ref names, once its papers agree with ref.
func (p *Provisioner) find(st *state, ref provisioner.Ref) (bundle, error) {
	if ref.Handle != "" && ref.Handle != ref.Sandbox {
		return bundle{}, fmt.Errorf("handle %q is not that of %s: %w", ref.Handle, ref.Sandbox, provisioner.ErrNotOurs)
	}
	if !provisioner.ValidID(ref.Sandbox) {
		return bundle{}, provisioner.ErrNotFound
	}
	b, err := p.bundle(st, ref.Sandbox)
	if errors.Is(err, fs.ErrNotExist) {
		if exists(filepath.Join(st.machinesDir(), ref.Sandbox)) {
			return bundle{}, fmt.Errorf("it has no papers: %w", provisioner.ErrNotOurs)
		}
		return bundle{}, provisioner.ErrNotFound
	}
	return b, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
