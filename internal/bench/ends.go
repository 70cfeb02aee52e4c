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

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// What there is of machines, and how many of them end: some one by one, the
// others at one instant in the middle of these.
const (
	nodes      = 8
	firstVM    = 20_000
	oneByOne   = 500
	atOnce     = 200
	endsIn     = 20 * time.Second // from when they are recorded
	endsWithin = 10 * time.Second
)

// population is many sandboxes of an installation, with machines on a simulated
// Proxmox VE that takes no time, in the same process as we are.
type population struct {
	stage *stage.Stage
	srv   *pvetest.Server
	first time.Time // when the first of them ends

	mu   sync.Mutex
	gone map[int]time.Time // by VMID
}

// ends measures a daemon that finds 10,000 machines, some of which end soon: its
// memory, how long a page of a list takes, and how late they end.
func (b *bench) ends(ctx context.Context) (_ []figure, err error) {
	st, err := stage.New(filepath.Dir(b.stage.Bin("agentlab")))
	if err != nil {
		return nil, err
	}
	p := &population{stage: st, gone: map[int]time.Time{}}
	p.srv = &pvetest.Server{Destroyed: func(vmid int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gone[vmid] = time.Now()
	}}
	defer func() {
		err = errors.Join(err, st.StopDaemon(), st.Close()) // stopped first, or it is asked to destroy what is left
		p.srv.Close()
	}()
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	w, err := dialWire(ctx, st)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	rss, err := p.until(ctx, (&bench{stage: st}).daemonRSS)
	if err != nil {
		return nil, err
	}
	lists, err := w.listPages(ctx, 300) // not before: the daemon reads 10,000 machines at its start
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
		slowest("late", "how late sandboxes end, 700 of 10,000 in 10 s: p99", ended, 250),
		slowest("late_gone", "how late their machines are gone: p99", gone, 2000),
	}, nil
}

// settle has the machines there, and the records that the daemon is to find.
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
	if err := p.makeMachines(c.backend); err != nil {
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

// makeMachines has the machines there as a backend would have made them: to make
// them takes minutes.
func (p *population) makeMachines(backend *proxmox.Provisioner) (err error) {
	now := time.Now().UTC()
	p.srv.Edit(func(c *pvetest.Cluster) {
		for i := range many {
			papers := provisioner.Papers{
				Instance: backend.Instance, Sandbox: sandboxID(i), Owner: owner(), Profile: "p", MemoryMB: 16,
				Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
			}
			node := "pve"
			if n := i % nodes; n > 0 {
				node = fmt.Sprintf("pve%d", n+1)
			}
			vm := c.AddVM(node, firstVM+i, papers.Sandbox)
			var text, tags string
			if text, tags, err = backend.Inscribe(vm.ID, papers); err != nil {
				return
			}
			vm.Config["description"], vm.Config["tags"] = text, tags
			vm.Running, c.Pools[backend.Pool].VMs[vm.ID] = true, true
		}
	})
	return err
}

func sandboxID(i int) string { return fmt.Sprintf("sb-%05d", i) }

// owner is who we are to a daemon of ours.
func owner() string { return fmt.Sprintf("local:%d", os.Getuid()) }

// record writes the records of the machines. Ends that are near are sooner than
// those on the papers, as they are when somebody has shortened them.
func (p *population) record(ctx context.Context, db *store.DB) error {
	now := time.Now().UTC()
	p.first = now.Add(endsIn)
	for i := range many {
		sb := sessions.Sandbox{
			ID: sandboxID(i), Owner: owner(), Profile: "p", Backend: "proxmox", State: sessions.Ready, Handle: fmt.Sprint(firstVM + i),
			Created: now.Add(time.Duration(i)), Ready: now, End: p.end(i), MaxEnd: now.Add(time.Hour), MemoryMB: 16,
		}
		if _, _, err := db.Add(ctx, sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			return err
		}
	}
	return nil
}

// end is when a sandbox ends: one of the first within the measurement.
func (p *population) end(i int) time.Time {
	switch {
	case i < oneByOne:
		return p.first.Add(endsWithin * time.Duration(i) / oneByOne)
	case i < oneByOne+atOnce:
		return p.first.Add(endsWithin / 2)
	}
	return p.first.Add(time.Hour - endsIn)
}

// until waits until all machines that are to end are gone and returns the most memory meanwhile.
func (p *population) until(ctx context.Context, rss func() (float64, error)) (most float64, err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := p.first.Add(endsWithin + 5*time.Minute)
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
		case gone == oneByOne+atOnce:
			return most, nil
		case time.Now().After(last):
			return 0, fmt.Errorf("%d of %d machines are gone", gone, oneByOne+atOnce)
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
	for i := range oneByOne + atOnce {
		sb, err := db.Sandbox(ctx, sandboxID(i))
		if err != nil {
			return nil, nil, err
		}
		ended = append(ended, sb.Ended.Sub(p.end(i)))
		gone = append(gone, p.gone[firstVM+i].Sub(p.end(i)))
	}
	return ended, gone, nil
}
