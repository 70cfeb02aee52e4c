package local

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/internal/durable"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Names in the directory of a machine, which is its OCI bundle.
const (
	configFile = "config.json"
	papersLink = "papers"
	runDir     = "run"  // shared with the guest
	diskDir    = "disk" // backs the machine's writable layer
)

// Annotations of the bundle. The papers in it are those that the machine was made
// with. Others are the target of papersLink, a symbolic link to nowhere: unlike a
// file it is never there in part, also after the host has died, and nobody who
// writes it waits for the disk.
const (
	papersAnnotation = "agentlab.papers"
	osAnnotation     = "agentlab.os"
)

// maxConfig bounds what is read as a bundle's configuration, in bytes.
const maxConfig = 1 << 20

// tempPrefix marks directories that are being made or removed: nothing runs
// in them, and whoever finds them at a start removes them.
const tempPrefix = ".tmp-"

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// bundle is a machine's directory whose papers were verified.
type bundle struct {
	papers provisioner.Papers
	os     string
	root   string // lower directory of its root file system
}

// bundle reads the directory of machine id and verifies its papers: they are
// signed by us and name this machine. An error that is fs.ErrNotExist says
// that there is no configuration; any other wraps ErrNotOurs, or ErrUnavailable
// if it could not be read now.
func (p *Provisioner) bundle(st *state, id string) (bundle, error) {
	if !provisioner.ValidID(id) {
		return bundle{}, fmt.Errorf("%q can't be a machine: %w", id, provisioner.ErrNotOurs)
	}
	config, sealed, err := readBundle(filepath.Join(st.machinesDir(), id))
	if errors.Is(err, fs.ErrNotExist) {
		return bundle{}, err
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) { // a link, or no directory
		return bundle{}, fmt.Errorf("read machine %s (%v): %w", id, err, provisioner.ErrNotOurs)
	}
	if err != nil {
		return bundle{}, unread(id, err)
	}
	var c struct {
		Root        struct{ Path string }
		Annotations map[string]string
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return bundle{}, fmt.Errorf("read machine %s (%v): %w", id, err, provisioner.ErrNotOurs)
	}
	papers, err := p.Key.Open(cmp.Or(sealed, c.Annotations[papersAnnotation]))
	if err != nil {
		return bundle{}, err
	}
	if papers.Sandbox != id || papers.Instance != p.Instance {
		return bundle{}, fmt.Errorf("papers in %s are of %s of %s: %w", id, papers.Sandbox, papers.Instance, provisioner.ErrNotOurs)
	}
	return bundle{papers: papers, os: c.Annotations[osAnnotation], root: c.Root.Path}, nil
}

// readBundle reads the configuration of the bundle at dir, and its papers if they
// are not those in there any more. Neither configuration nor directory may be a
// symbolic link: it could lead to another machine.
func readBundle(dir string) (config []byte, papers string, err error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	defer unix.Close(d)
	fd, err := unix.Openat(d, configFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	f := os.NewFile(uintptr(fd), configFile)
	defer f.Close()
	target := make([]byte, unix.PathMax)
	switch n, err := unix.Readlinkat(d, papersLink, target); {
	case err == nil:
		papers = string(target[:n])
	case !errors.Is(err, fs.ErrNotExist):
		return nil, "", err
	}
	config, err = io.ReadAll(io.LimitReader(f, maxConfig))
	return config, papers, err
}

func (b bundle) machine(running bool) provisioner.Machine {
	return provisioner.Machine{
		Ref:     provisioner.Ref{Sandbox: b.papers.Sandbox, Handle: b.papers.Sandbox},
		Papers:  b.papers,
		Running: running,
		Home:    guestHome,
		OS:      b.os,
	}
}

// newBundle makes the directory of a new machine, whole or not at all.
func (p *Provisioner) newBundle(st *state, root rootfs, spec provisioner.Spec) (_ bundle, err error) {
	id := spec.Papers.Sandbox
	sealed, err := p.Key.Seal(spec.Papers)
	if err != nil {
		return bundle{}, err
	}
	final := filepath.Join(st.machinesDir(), id)
	config, err := json.Marshal(st.ociSpec(root, spec, final, sealed))
	if err != nil {
		return bundle{}, fmt.Errorf("encode bundle: %w", err)
	}
	temp, err := os.MkdirTemp(st.machinesDir(), tempPrefix)
	if err != nil {
		return bundle{}, fmt.Errorf("make machine directory: %w", noSpace(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(noSpace(err), os.RemoveAll(temp))
		}
	}()
	if err := st.step("local fill bundle", func() error { return p.fillBundle(st, temp, config, spec) }); err != nil {
		return bundle{}, fmt.Errorf("make machine directory: %w", err)
	}
	if err := st.step("local name bundle", func() error { return os.Rename(temp, final) }); err != nil {
		return bundle{}, fmt.Errorf("make machine directory: %w", err)
	}
	return bundle{papers: spec.Papers, os: root.os, root: root.dir}, nil
}

// fillBundle writes what a machine directory holds. Others may pass through
// it, for the guest's file server is nobody, but not list it.
func (p *Provisioner) fillBundle(st *state, dir string, config []byte, spec provisioner.Spec) error {
	seed, err := p.seed(spec)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	if err := durable.WriteNew(filepath.Join(dir, configFile), config); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, diskDir), 0o700); err != nil {
		return err
	}
	run := filepath.Join(dir, runDir)
	if err := os.Mkdir(run, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(run, guest.SeedFile), seed, 0o600); err != nil {
		return err
	}
	return errors.Join(st.giveToGuest(filepath.Join(run, guest.SeedFile)), st.giveToGuest(run))
}

// seed returns what the guest is given at its start.
func (p *Provisioner) seed(spec provisioner.Spec) ([]byte, error) {
	keys, err := p.channelKeys(spec.Papers.Sandbox, spec.Papers.Keys)
	if err != nil {
		return nil, err
	}
	return json.Marshal(guest.Seed{
		HostKey:    keys.host.Seed(),
		ClientKey:  keys.client.Public().(ed25519.PublicKey),
		Session:    keys.session,
		Generation: spec.Papers.Keys,
		Home:       guestHome,
		MemoryMB:   spec.MemoryMB,
		MaxProcs:   spec.MaxProcs,
		HideShared: true,
		Pooled:     spec.Pooled,
	})
}

// channelKeys are the secrets of a machine's channel.
type channelKeys struct {
	host, client ed25519.PrivateKey
	session      []byte // see guest.Seed
}

// channelKeys returns the secrets of the channel of a machine that was re-keyed
// n times. They are derived, so that they need not be kept.
func (p *Provisioner) channelKeys(id string, n int) (keys channelKeys, err error) {
	var derived [4][]byte
	for i, what := range []string{"host ", "client ", "session id ", "session "} {
		if derived[i], err = p.Key.Derive(provisioner.OfGeneration(what+id, n)); err != nil {
			return channelKeys{}, err
		}
	}
	return channelKeys{
		host:    ed25519.NewKeyFromSeed(derived[0]),
		client:  ed25519.NewKeyFromSeed(derived[1]),
		session: append(derived[2][:16:16], derived[3]...),
	}, nil
}

// draftLink is what is to take the place of papersLink. One that a crash leaves is
// overwritten by the next try.
const draftLink = papersLink + ".new"

// relabel puts other papers in force, or leaves those that are, also if the host
// dies.
func (p *Provisioner) relabel(st *state, papers provisioner.Papers) error {
	if err := p.draft(st, papers); err != nil {
		return err
	}
	return st.nameDraft(papers.Sandbox)
}

// draft writes papers that are not in force yet.
func (p *Provisioner) draft(st *state, papers provisioner.Papers) error {
	sealed, err := p.Key.Seal(papers)
	if err != nil {
		return err
	}
	if err := st.dropDraft(papers.Sandbox); err != nil {
		return err
	}
	return st.step("local write papers", func() error { return os.Symlink(sealed, st.draftOf(papers.Sandbox)) })
}

// nameDraft puts the papers of a machine in force that were drafted.
func (st *state) nameDraft(id string) error {
	err := st.step("local name papers", func() error {
		return os.Rename(st.draftOf(id), filepath.Join(st.machineDir(id), papersLink))
	})
	if err != nil {
		return errors.Join(err, st.dropDraft(id))
	}
	return nil
}

func (st *state) draftOf(id string) string { return filepath.Join(st.machineDir(id), draftLink) }

func (st *state) dropDraft(id string) error { return ignoreGone(os.Remove(st.draftOf(id))) }

// noSpace marks an error of a full disk as what it is to a caller.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, provisioner.ErrExhausted)
	}
	return err
}
