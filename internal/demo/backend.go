package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// backend is what the demo's sandboxes are made on.
type backend interface {
	// prepare configures the installation for it; in says as which backend
	// profiles name it.
	prepare(ctx context.Context, st *stage.Stage, out *transcript) (in string, err error)
	// spares says why it proves nothing that a sandbox can't reach that part of
	// this host; empty is that it does.
	spares(part part) string
	// patience is how long the demo may take.
	patience() time.Duration
	// pause is how long, in seconds, something lasts that is watched while it does.
	pause() string
	// about says what there is beside sandboxes, to be shown; empty is nothing.
	about() string
	// left is an error if anything is not as it was before.
	left() error
	close()
}

func newBackend(name, guests string) (backend, error) {
	switch name {
	case "local":
		return host{}, nil
	case "proxmox":
	default:
		return nil, fmt.Errorf("backend: got %q, want local or proxmox", name)
	}
	switch guests {
	case "", "qemu", "process":
		return &simulator{guests: guests}, nil
	}
	return nil, fmt.Errorf("guests: got %q, want qemu or process", guests)
}

// host is this one.
type host struct{}

func (host) prepare(context.Context, *stage.Stage, *transcript) (string, error) { return "local", nil }
func (host) spares(part) string                                                 { return "" }
func (host) patience() time.Duration                                            { return 2 * time.Minute }
func (host) pause() string                                                      { return "0.3" }
func (host) about() string                                                      { return "" }
func (host) left() error                                                        { return nil }
func (host) close()                                                             {}

// simulator is a simulated Proxmox VE.
type simulator struct {
	*pvesim.Sim
	guests string // what its machines are: qemu or process; empty is to be decided
}

func (s *simulator) prepare(ctx context.Context, st *stage.Stage, out *transcript) (_ string, err error) {
	out.title("A Proxmox VE is simulated")
	if s.Sim, err = s.furnish(ctx, filepath.Join(st.Dir, "proxmox"), out); err != nil {
		return "", err
	}
	if err := st.Configure(s.Config()); err != nil {
		return "", err
	}
	return "proxmox", st.AddProfile("default", "backend: proxmox\ndescription: a virtual machine, no network\nmemory_mb: 768\n")
}

// furnish puts one up, with real machines unless they can't be had and need not.
func (s *simulator) furnish(ctx context.Context, dir string, out *transcript) (*pvesim.Sim, error) {
	const version = "8.4.21"
	if s.guests != "process" {
		out.step("machines", "that QEMU boots; an image for them is built first, once, in a minute or two")
		sim, err := pvesim.NewVMs(ctx, dir, version)
		if err == nil {
			s.guests = "qemu"
			return sim, nil
		}
		if s.guests == "qemu" || ctx.Err() != nil {
			return nil, err
		}
		out.step("none of QEMU", err.Error())
	}
	s.guests = "process"
	out.step("machines", "that are but processes of this host, in namespaces")
	return pvesim.New(dir, version)
}

func (s *simulator) spares(p part) string {
	switch {
	case s.guests == "process" && p == network:
		return "these guests are processes that share the network of this host"
	case s.guests == "qemu" && p == system:
		return "it is root of a machine of its own, with users of its own"
	}
	return ""
}

// patience has the time in it for an image, and boots under emulation.
func (s *simulator) patience() time.Duration {
	if s.guests == "process" {
		return 2 * time.Minute
	}
	return 15 * time.Minute
}

func (s *simulator) pause() string {
	if s.guests == "process" {
		return "0.3"
	}
	return "4"
}

func (s *simulator) about() string { return s.Summary() }

func (s *simulator) left() error {
	if changed := s.Changed(); len(changed) > 0 {
		return errors.New("left on the Proxmox:\n" + strings.Join(changed, "\n"))
	}
	return nil
}

func (s *simulator) close() {
	if s.Sim != nil {
		s.Close()
	}
}
