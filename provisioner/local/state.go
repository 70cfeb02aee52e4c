package local

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// nobody is who root's machines are on the host. gVisor's own processes run as
// this user in a user namespace, so that an escape from one is an escape to
// nothing. Those of another user's machines run as that user.
const nobody = 65534

const (
	minMemoryMB = 32  // below it, agentlab-guest and a shell do not fit
	spareDiskMB = 256 // free space below Dir that machines are not made without
)

// state is an opened Dir.
type state struct {
	dir     string
	uid     int  // ours
	cgroups bool // runsc may make cgroups
	log     *slog.Logger
	step    func(name string, do func() error) error
	boots   sync.Map // machine id -> *os.File, what it printed while booting
	fresh   sync.Map // machine id -> struct{}, until somebody uses the session of its seed

	skeleton skeleton
	guest    guestCopy
}

func (st *state) machinesDir() string         { return filepath.Join(st.dir, "machines") }
func (st *state) rootfsDir() string           { return filepath.Join(st.dir, "rootfs") }
func (st *state) runscDir() string            { return filepath.Join(st.dir, "runsc") }
func (st *state) machineDir(id string) string { return filepath.Join(st.machinesDir(), id) }
func (st *state) rootless() bool              { return st.uid != 0 }

// state opens Dir, the first time it succeeds, and returns it.
func (p *Provisioner) state() (*state, error) {
	p.opened.Lock()
	defer p.opened.Unlock()
	if p.open != nil {
		return p.open, nil
	}
	if !filepath.IsAbs(p.Dir) {
		return nil, fmt.Errorf("state directory %q is not absolute: %w", p.Dir, provisioner.ErrUnavailable)
	}
	st := &state{dir: filepath.Clean(p.Dir), uid: os.Geteuid(), log: p.Log, step: p.Step}
	if st.log == nil {
		st.log = slog.New(slog.DiscardHandler)
	}
	if st.step == nil {
		st.step = func(_ string, do func() error) error { return do() }
	}
	if err := st.step("local make directories", st.makeDirs); err != nil {
		return nil, fmt.Errorf("open state directory: %w: %w", err, provisioner.ErrUnavailable)
	}
	if err := st.step("local sweep", st.sweep); err != nil {
		return nil, fmt.Errorf("open state directory: %w: %w", err, provisioner.ErrUnavailable)
	}
	st.cgroups = !st.rootless() && cgroupsWritable()
	if !st.cgroups {
		st.log.Info("machines are not in cgroups of their own: their memory, processes and CPUs are limited from inside and by affinity only",
			"root", !st.rootless())
	}
	p.collect(st)
	p.open = st
	return st, nil
}

// makeDirs makes what is below dir. Nobody must be able to pass through, for
// root's machines run as nobody, but not to list.
func (st *state) makeDirs() error {
	for _, dir := range []string{st.dir, st.machinesDir(), st.rootfsDir(), st.runscDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		fi, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if dir != st.dir && !fi.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
	}
	return nil
}

// sweep removes what a crash left in the middle of being made or removed.
func (st *state) sweep() error {
	var errs []error
	for _, dir := range []string{st.machinesDir(), st.rootfsDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if isTemp(e.Name()) {
				errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// giveToGuest makes path the guest's own. For an ordinary user it is already.
func (st *state) giveToGuest(path string) error {
	if st.rootless() {
		return nil
	}
	return os.Lchown(path, nobody, nobody)
}

// room says whether a machine of that spec fits.
func (st *state) room(spec provisioner.Spec) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(st.dir, &fs); err != nil {
		return fmt.Errorf("look for free space in %s: %w", st.dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize) >> 20; free < spareDiskMB {
		return fmt.Errorf("%s has %d MB free, %d MB are needed: %w", st.dir, free, spareDiskMB, provisioner.ErrExhausted)
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return fmt.Errorf("look for memory: %w", err)
	}
	if total := si.Totalram * uint64(si.Unit) >> 20; uint64(spec.MemoryMB) > total {
		return fmt.Errorf("machine wants %d MB of memory, this host has %d MB: %w", spec.MemoryMB, total, provisioner.ErrExhausted)
	}
	return nil
}

// tools are the programs that machines need.
type tools struct{ runsc, guest, platform string }

func (p *Provisioner) tools() (tools, error) {
	runsc, rerr := provisioner.FindTool(p.Runsc, "runsc")
	guest, gerr := provisioner.FindTool(p.Guest, "agentlab-guest")
	if err := errors.Join(rerr, gerr); err != nil {
		return tools{}, fmt.Errorf("%w: %w", err, provisioner.ErrUnavailable)
	}
	t := tools{runsc: runsc, guest: guest, platform: p.Platform}
	switch t.platform {
	case "":
		t.platform = "systrap"
	case "systrap", "kvm", "ptrace":
	default:
		return t, fmt.Errorf("platform %q is none of systrap, kvm, ptrace: %w", t.platform, provisioner.ErrUnavailable)
	}
	return t, nil
}
