package main

import (
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
	prepare(st *stage.Stage) (in string, err error)
	// spares says why it proves nothing that a sandbox can't reach that part of
	// this host; empty is that it does.
	spares(part part) string
	// patience is how long the demo may take.
	patience() time.Duration
	// about says what there is beside sandboxes, to be shown; empty is nothing.
	about() string
	// left is an error if anything is not as it was before.
	left() error
	close()
}

func newBackend(name string) (backend, error) {
	switch name {
	case "local":
		return host{}, nil
	case "proxmox":
		return &simulator{}, nil
	}
	return nil, fmt.Errorf("backend: got %q, want local or proxmox", name)
}

// host is this one.
type host struct{}

func (host) prepare(*stage.Stage) (string, error) { return "local", nil }
func (host) spares(part) string                   { return "" }
func (host) patience() time.Duration              { return 2 * time.Minute }
func (host) about() string                        { return "" }
func (host) left() error                          { return nil }
func (host) close()                               {}

// simulator is a simulated Proxmox VE whose machines are processes.
type simulator struct{ *pvesim.Sim }

func (s *simulator) prepare(st *stage.Stage) (_ string, err error) {
	if s.Sim, err = pvesim.New(filepath.Join(st.Dir, "proxmox"), "8.4.21"); err != nil {
		return "", err
	}
	if err := st.Configure(s.Config()); err != nil {
		return "", err
	}
	return "proxmox", st.AddProfile("default", "backend: proxmox\ndescription: a virtual machine, no network\n")
}

func (s *simulator) spares(p part) string {
	if p == network {
		return "the simulator's guests are processes that share the network of this host"
	}
	return ""
}

func (s *simulator) patience() time.Duration { return 2 * time.Minute }

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
