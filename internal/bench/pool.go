package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// members is the size of the pool that is measured.
const members = 2

// pool compares a create that takes a machine made ahead with one that makes it,
// of this host and of a Proxmox VE that takes no time for anything.
func (b *bench) pool(ctx context.Context) ([]figure, error) {
	local, err := measurePool(ctx, filepath.Dir(b.stage.Bin("agentlab")), "backend: local\nmemory_mb: 128\n", "")
	if err != nil {
		return nil, err
	}
	guests, err := os.MkdirTemp("", "agentlab-guests-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(guests)
	sim := pvesim.Furnish(&pvetest.Server{NewGuest: (&pvetest.ProcessGuests{Dir: guests}).New})
	defer sim.Close()
	proxmox, err := measurePool(ctx, filepath.Dir(b.stage.Bin("agentlab")), "backend: proxmox\n", sim.Config())
	if err != nil {
		return nil, err
	}
	return []figure{
		size("pool_claim", "create from a pool, p50", "ms", ms(local.ours.median()), 5, len(local.ours)),
		faster("pool_ratio", "create from a pool / cold", local.ours, local.floor, 20),
		size("pve_pool_claim", "Proxmox: create from a pool, p50", "ms", ms(proxmox.ours.median()), 10, len(proxmox.ours)),
		faster("pve_pool_ratio", "Proxmox: create from a pool / cold", proxmox.ours, proxmox.floor, 5),
	}, nil
}

// poolSite is an installation with two profiles that are alike, but that one of
// them has a pool.
type poolSite struct {
	*stage.Stage
	metrics string
	wire    *wire
}

// measurePool creates by both profiles of a new installation, turn by turn.
func measurePool(ctx context.Context, bin, profile, config string) (r comparison, err error) {
	st, err := stage.New(bin)
	if err != nil {
		return r, err
	}
	s := &poolSite{Stage: st}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.open(ctx, profile, config); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.drain(context.WithoutCancel(ctx), profile)) }()
	const n = 30
	for range n {
		if err := s.await(ctx, fmt.Sprintf("agentlab_pool_members{profile=\"warm\",state=\"READY\"} %d\n", members)); err != nil {
			return r, err
		}
		ours, err := s.create(ctx, "warm")
		if err != nil {
			return r, err
		}
		floor, err := s.create(ctx, "default")
		if err != nil {
			return r, err
		}
		r.ours, r.floor = append(r.ours, ours), append(r.floor, floor)
	}
	return r, nil
}

func (s *poolSite) open(ctx context.Context, profile, config string) error {
	addr, err := stage.FreeAddress(ctx)
	if err != nil {
		return err
	}
	s.metrics = "http://" + addr + "/metrics"
	err = errors.Join(
		s.Configure(config+"metrics_listen: "+addr+"\n"),
		s.AddProfile("default", profile),
		s.AddProfile("warm", fmt.Sprintf("%spool: {size: %d}\n", profile, members)),
	)
	if err != nil {
		return err
	}
	s.wire, err = dialWire(ctx, s.Stage)
	return err
}

// create makes a sandbox and destroys it, and returns how long the first took.
func (s *poolSite) create(ctx context.Context, profile string) (took time.Duration, err error) {
	var sb struct {
		ID   string `json:"sandbox_id"`
		Warm bool   `json:"warm"`
	}
	if took, err = s.wire.call(ctx, "create_sandbox", fmt.Sprintf(`{"profile":%q}`, profile), &sb); err != nil {
		return 0, err
	}
	if sb.Warm != (profile == "warm") {
		return 0, fmt.Errorf("a sandbox of profile %s was made ahead: %v", profile, sb.Warm)
	}
	_, err = s.wire.call(ctx, "destroy", fmt.Sprintf(`{"sandbox_id":%q}`, sb.ID), nil)
	return took, err
}

// drain ends the members of the pool.
func (s *poolSite) drain(ctx context.Context, profile string) error {
	err := errors.Join(s.wire.Close(), s.StopDaemon(), s.AddProfile("warm", profile))
	if err != nil {
		return err
	}
	if s.wire, err = dialWire(ctx, s.Stage); err != nil {
		return err
	}
	return errors.Join(s.await(ctx, ""), s.wire.Close())
}

// await waits until the metrics have a line, or, if it is empty, no member of a
// pool and nothing that is overdue.
func (s *poolSite) await(ctx context.Context, line string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		text, err := s.scrape(ctx)
		switch {
		case err != nil:
		case line != "" && bytes.Contains(text, []byte(line)):
			return nil
		case line == "" && bytes.Contains(text, []byte("agentlab_ready 1\n")) && !bytes.Contains(text, []byte("agentlab_pool_members{")):
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w: %w\n%s", line, ctx.Err(), err, text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *poolSite) scrape(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metrics, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}
