package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// What there is of machines, and when they end.
const (
	nodes      = 8
	firstVM    = 20_000
	endsIn     = 90 * time.Second // from when the first is recorded
	endsWithin = time.Minute
)

// population is many sandboxes of an installation, with machines on a simulated
// Proxmox VE that takes no time, in the same process as we are.
type population struct {
	stage *stage.Stage
	srv   *pvetest.Server
	refs  []provisioner.Ref
	ends  []time.Time

	mu   sync.Mutex
	gone map[string]time.Time // by the handle's VMID
}

// ends measures a daemon with 10,000 machines until all of them have ended within
// a minute: its memory, how long a page of a list takes, and how late they end.
func (b *bench) ends(ctx context.Context) (_ []figure, err error) {
	st, err := stage.New(filepath.Dir(b.stage.Bin("agentlab")))
	if err != nil {
		return nil, err
	}
	p := &population{stage: st, gone: map[string]time.Time{}}
	p.srv = &pvetest.Server{Destroyed: func(vmid int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gone[fmt.Sprint(vmid)] = time.Now()
	}}
	defer func() { err = errors.Join(err, st.Close()); p.srv.Close() }()
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	client, err := st.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	of := &bench{stage: st, client: client}
	lists, err := of.listPages(ctx, 200)
	if err != nil {
		return nil, err
	}
	rss, err := p.until(ctx, of.daemonRSS)
	if err != nil {
		return nil, err
	}
	ended, gone, err := p.late(ctx)
	if err != nil {
		return nil, err
	}
	return []figure{
		slowest("list_mcp", "list_sandboxes over MCP, one of 10,000: p99", lists, 10),
		size("rss_10000", "daemon RSS at most, 10,000 machines", "MB", rss/1024, 150, many),
		slowest("late", "how late sandboxes end, 10,000 in a minute: p99", ended, 250),
		slowest("late_gone", "how late their machines are gone: p99", gone, 2000),
	}, nil
}

// settle makes the machines, and the records that the daemon is to find.
func (p *population) settle(ctx context.Context) error {
	state := filepath.Join(p.stage.Dir, "state", "agentlab")
	dir, err := config.OpenDir(state, config.StateMode())
	if err != nil {
		return err
	}
	defer dir.Close()
	key, err := config.InstanceKey(dir)
	if err != nil {
		return err
	}
	id, err := config.InstanceID(key)
	if err != nil {
		return err
	}
	c, err := newCluster(p.srv, nodes)
	if err != nil {
		return err
	}
	c.backend.Key, c.backend.Instance, c.backend.VMIDs = key, id, proxmox.Range{First: firstVM, Last: firstVM + 2*many}
	if err := p.makeMachines(ctx, c.backend); err != nil {
		return err
	}
	var secret string
	p.srv.Edit(func(c *pvetest.Cluster) { secret = c.AddToken("root@pam!daemon", false) })
	err = errors.Join(
		p.stage.Configure(fmt.Sprintf("reconcile_every: 5s\nproxmox_api_url: %s\nproxmox_api_token: root@pam!daemon=%s\nproxmox_tls_fingerprint: %s\nproxmox_pool: %s\nproxmox_vmid_range: %d-%d\nproxmox_template: debian\n",
			p.srv.Listen("pve"), secret, p.srv.Fingerprint("pve"), c.backend.Pool, firstVM, firstVM+2*many)),
		p.stage.AddProfile("p", "backend: proxmox\n"))
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, filepath.Join(state, config.DatabaseFile), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(p.record(ctx, db), db.Close())
}

func (p *population) makeMachines(ctx context.Context, backend *proxmox.Provisioner) error {
	p.refs = make([]provisioner.Ref, many)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4 * nodes)
	for i := range many {
		g.Go(func() error {
			now := time.Now().UTC()
			m, err := backend.Create(ctx, provisioner.Spec{
				Papers: provisioner.Papers{Instance: backend.Instance, Sandbox: fmt.Sprintf("sb-%05d", i), Owner: owner(), Profile: "p", Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour)},
				Cores:  1, MemoryMB: 16, DiskMB: 3072, Network: "none",
				Started: func(context.Context, provisioner.Machine) error { return nil },
			})
			p.refs[i] = m.Ref
			return err
		})
	}
	return g.Wait()
}

// owner is who we are to a daemon of ours.
func owner() string { return fmt.Sprintf("local:%d", os.Getuid()) }

// record writes the records of the machines. Their ends are sooner than those on
// the papers, as they are when somebody has shortened them.
func (p *population) record(ctx context.Context, db *store.DB) error {
	first := time.Now().UTC().Add(endsIn)
	for i, ref := range p.refs {
		now := time.Now().UTC()
		end := first.Add(endsWithin * time.Duration(i) / many)
		sb := sessions.Sandbox{
			ID: ref.Sandbox, Owner: owner(), Profile: "p", Backend: "proxmox", State: sessions.Ready, Handle: ref.Handle,
			Created: now, Ready: now, End: end, MaxEnd: now.Add(time.Hour), MemoryMB: 16,
		}
		if _, _, err := db.Add(ctx, sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			return err
		}
		p.ends = append(p.ends, end)
	}
	return nil
}

// listPages lists what we have, page by page, as an agent would.
func (b *bench) listPages(ctx context.Context, n int) (s sample, err error) {
	var out struct {
		Next string `json:"next_after"`
	}
	for len(s) < n {
		after := out.Next
		out.Next = ""
		start := time.Now()
		if _, err := b.client.Call(ctx, "list_sandboxes", stage.Args{"after": after}, &out); err != nil {
			return nil, err
		}
		s = append(s, time.Since(start))
	}
	return s, nil
}

// until waits until all machines are gone and returns the most memory meanwhile.
func (p *population) until(ctx context.Context, rss func() (float64, error)) (most float64, err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now().Add(endsIn + endsWithin + 5*time.Minute)
	for {
		kb, err := rss()
		if err != nil {
			return 0, err
		}
		most = max(most, kb)
		p.mu.Lock()
		gone := len(p.gone)
		p.mu.Unlock()
		switch {
		case gone == many:
			return most, nil
		case time.Now().After(last):
			return 0, fmt.Errorf("%d of %d machines are left", many-gone, many)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// late returns how long after their time sandboxes ended, and how long after it
// their machines were gone.
func (p *population) late(ctx context.Context) (ended, gone sample, err error) {
	db, err := store.Open(ctx, filepath.Join(p.stage.Dir, "state", "agentlab", config.DatabaseFile), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for i, ref := range p.refs {
		sb, err := db.Sandbox(ctx, ref.Sandbox)
		if err != nil {
			return nil, nil, err
		}
		id, err := proxmox.VMID(ref)
		if err != nil {
			return nil, nil, err
		}
		ended = append(ended, sb.Ended.Sub(p.ends[i]))
		gone = append(gone, p.gone[fmt.Sprint(id)].Sub(p.ends[i]))
	}
	return ended, gone, nil
}
