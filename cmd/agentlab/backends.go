package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/obs"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/local"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// backends returns those of the installation. That of a Proxmox is among them
// if one is set up, also when no profile names it any more: there may be
// sandboxes of it.
func (in *installation) backends(cfg config.Config, profiles *recipes, key provisioner.Key, id string) map[string]provisioner.Provisioner {
	all := map[string]provisioner.Provisioner{"local": in.points.Backend("local", in.local(key, id))}
	if cfg.Proxmox.Used() || slices.ContainsFunc(cfg.Profiles, func(p config.Profile) bool { return p.Backend == "proxmox" }) {
		all["proxmox"] = in.points.Backend("proxmox", in.proxmox(profiles, key, id))
	}
	return all
}

// parallel is how many machines each backend makes at once. A cluster takes as
// many as are asked for; pvesh costs a second of CPU time of its node each time.
func parallel(cfg config.Config) map[string]int {
	if cfg.Proxmox.Backend == "shell" {
		return nil
	}
	return map[string]int{"proxmox": 128}
}

type localSettings struct{ Runsc, Guest, Platform string }

func (in *installation) local(key provisioner.Key, id string) provisioner.Provisioner {
	return &late[localSettings]{
		read: func() (localSettings, error) {
			cfg, err := config.Load(in.paths.Config)
			return localSettings{cfg.LocalRunsc, cfg.LocalGuest, cfg.LocalPlatform}, err
		},
		build: func(s localSettings) (provisioner.Provisioner, error) {
			return &local.Provisioner{
				Dir: filepath.Join(in.paths.State, config.MachinesDir), Key: key, Instance: id,
				Runsc: s.Runsc, Guest: s.Guest, Platform: s.Platform, Log: in.log,
				Step: in.points.Around,
			}, nil
		},
	}
}

// proxmoxSettings are what is configured, with the content of the files that
// are named there.
type proxmoxSettings struct {
	config.Proxmox
	Guest string // as of the local backend
	Token redact.String
	CA    string
}

func (in *installation) proxmox(profiles *recipes, key provisioner.Key, id string) provisioner.Provisioner {
	return &late[proxmoxSettings]{
		read: func() (proxmoxSettings, error) {
			cfg, err := config.Load(in.paths.Config)
			if err != nil {
				return proxmoxSettings{}, err
			}
			s, err := readProxmox(cfg.Proxmox, os.Getenv)
			s.Guest = cfg.LocalGuest
			return s, err
		},
		build: func(s proxmoxSettings) (provisioner.Provisioner, error) {
			if s.TLSInsecure {
				in.log.Warn("proxmox_tls_insecure is set: whoever is on the way to Proxmox can take the API token; set proxmox_tls_fingerprint or proxmox_tls_ca")
			}
			p, err := s.provisioner(profiles, key, id, in.log)
			if err != nil {
				return nil, err
			}
			if in.watch != nil {
				p.Client.Transport = counted{p.Client.Transport, in.watch}
			}
			p.Client.Transport = in.points.Transport(p.Client.Transport)
			return p, nil
		},
	}
}

// counted counts calls of the Proxmox API, each of which is a span.
type counted struct {
	pve.Transport
	watch *obs.Watch
}

// Do is part of [pve.Transport].
func (c counted) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	start := time.Now()
	ctx, end := span.Start(ctx, "pve "+r.Name())
	res, err := c.Transport.Do(ctx, r)
	outcome := "ok"
	var known *pve.Error
	switch {
	case errors.As(err, &known):
		outcome = string(known.Kind)
	case ctx.Err() != nil:
		outcome = ctx.Err().Error()
	case err != nil:
		outcome = string(pve.Failed)
	}
	end(outcome)
	c.watch.Request("proxmox", r.Name(), outcome, time.Since(start))
	return res, err
}

// provisioner returns the backend that is configured, for machines of these
// profiles.
func (s proxmoxSettings) provisioner(profiles *recipes, key provisioner.Key, id string, log *slog.Logger) (*proxmox.Provisioner, error) {
	transport, err := s.transport()
	if err != nil {
		return nil, err
	}
	p := &proxmox.Provisioner{
		Client: &pve.Client{Transport: transport}, Key: key, Instance: id, Log: log,
		Pool: s.Pool, VMIDs: proxmox.Range(s.VMIDs), Template: s.Template, Bridge: s.Bridge,
		User: profiles.user, Channel: profiles.channel,
		Guest: s.Guest, PowerOff: s.PowerOffAfter,
	}
	if s.Node != "" {
		p.Nodes = []string{s.Node}
	}
	return p, nil
}

// readProxmox reads the files that the configuration names.
func readProxmox(p config.Proxmox, env func(string) string) (proxmoxSettings, error) {
	s := proxmoxSettings{Proxmox: p}
	if p.Backend == "shell" {
		return s, nil
	}
	if p.APIURL == "" {
		return s, errors.New("no Proxmox is set up: set proxmox_api_url to https://HOST:8006 and proxmox_api_token_file, or, on a node, proxmox_backend: shell")
	}
	var err error
	s.Token, err = p.Token(env)
	if p.TLSCA != "" {
		ca, caErr := os.ReadFile(p.TLSCA)
		if caErr != nil {
			err = errors.Join(err, fmt.Errorf("proxmox_tls_ca: %w", caErr))
		}
		s.CA = string(ca)
	}
	return s, err
}

func (s proxmoxSettings) trust() pve.Trust {
	return pve.Trust{CA: []byte(s.CA), Fingerprint: s.TLSFingerprint, Insecure: s.TLSInsecure}
}

// transport returns what carries calls to the Proxmox that is configured.
func (s proxmoxSettings) transport() (pve.Transport, error) {
	if s.Backend == "api" {
		return pve.NewHTTPS(s.APIURL, pve.Auth{Token: s.Token}, s.trust())
	}
	if s.SSH == "" {
		return pve.NewPvesh(pve.Local{}), nil
	}
	addr, err := s.SSHAddr()
	if err != nil {
		return nil, fmt.Errorf("proxmox_ssh: %w", err)
	}
	key, known := s.SSHKey, s.SSHKnownHosts
	if key == "" || known == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find the home directory; set proxmox_ssh_key and proxmox_ssh_known_hosts: %w", err)
		}
		if key == "" {
			key = filepath.Join(home, ".ssh", "id_ed25519")
		}
		if known == "" {
			known = filepath.Join(home, ".ssh", "known_hosts")
		}
	}
	shell, err := pve.OpenSSH(addr, key, known)
	if err != nil {
		return nil, fmt.Errorf("proxmox_ssh: %w", err)
	}
	return pve.NewPvesh(shell), nil
}
