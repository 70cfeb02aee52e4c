package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What the simulated Proxmox VE takes for its work, and a guest to boot.
const (
	cloneTime = 400 * time.Millisecond
	startTime = 1200 * time.Millisecond
	bootTime  = 6 * time.Second
	neighbour = 200 // VMID of somebody else's machine
)

// cluster is a simulated one, and a backend that uses it.
type cluster struct {
	srv     *pvetest.Server
	backend *proxmox.Provisioner
	other   *pve.Client // of another user
	made    int
}

func newCluster(srv *pvetest.Server, nodes int) (*cluster, error) {
	var secret string
	srv.Edit(func(c *pvetest.Cluster) {
		for i := range nodes {
			node := c.Nodes[0]
			if i > 0 {
				node = c.AddNode(fmt.Sprintf("pve%d", i+1))
			}
			node.Memory = 1 << 40
			c.AddTemplate(node.Name, 9000+i, "debian")
		}
		c.AddVM("pve", neighbour, "neighbour")
		c.Pools["agentlab"] = &pvetest.Pool{VMs: map[int]bool{}}
		secret = c.AddToken("root@pam!bench", false)
	})
	key, err := provisioner.NewKey(make([]byte, provisioner.KeySize))
	if err != nil {
		return nil, err
	}
	var clients [2]*pve.Client
	for i := range clients {
		auth, trust := pve.Auth{Token: redact.String("root@pam!bench=" + secret)}, pve.Trust{Fingerprint: srv.Fingerprint("pve")}
		h, err := pve.NewHTTPS(srv.Listen("pve"), auth, trust)
		if err != nil {
			return nil, err
		}
		clients[i] = &pve.Client{Transport: h}
	}
	return &cluster{srv: srv, other: clients[1], backend: &proxmox.Provisioner{
		Client: clients[0], Key: key, Instance: "bench", Pool: "agentlab",
		VMIDs: proxmox.Range{First: 5000, Last: 5999}, Template: "debian",
	}}, nil
}

// create makes n machines at once, and opens a channel to the guest of each.
func (c *cluster) create(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	for range n {
		c.made++
		end := time.Now().Add(time.Hour)
		spec := provisioner.Spec{
			Papers: provisioner.Papers{Instance: "bench", Sandbox: fmt.Sprintf("sb-%d", c.made), Owner: "bench", Profile: "p", End: end, MaxEnd: end},
			Cores:  1, MemoryMB: 256, DiskMB: 3072, Network: "none",
			Started: func(context.Context, provisioner.Machine) error { return nil },
		}
		g.Go(func() error {
			m, err := c.backend.Create(ctx, spec)
			if err != nil {
				return err
			}
			conn, err := c.backend.Dial(ctx, m.Ref)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
	return g.Wait()
}

// proxmox compares making machines of a simulated Proxmox VE with nothing but
// waiting for what that takes.
func (b *bench) proxmox(ctx context.Context) ([]figure, error) {
	one, err := makespan(ctx, 1, 7, 1)
	if err != nil {
		return nil, err
	}
	many, err := makespan(ctx, 100, 3, 4)
	if err != nil {
		return nil, err
	}
	extra, err := neighbourWaits(ctx)
	if err != nil {
		return nil, err
	}
	calls, err := reconcileCalls(ctx)
	if err != nil {
		return nil, err
	}
	return []figure{
		size("pve_create", "Proxmox: create beyond clone, start and boot", "ms", ms(one.ours.median()-one.floor.median()), 25, len(one.ours)),
		size("pve_create_calls", "Proxmox: calls of a create besides polls", "calls", one.calls, 8, len(one.ours)),
		slower("pve_create_100", "Proxmox: 100 creates on 4 nodes / the same", many.ours, many.floor, 1.15),
		size("pve_reconcile", "Proxmox: reconcile of 1000 of 10,000 machines", "calls", calls, 5, 1000),
		size("pve_neighbour", "Proxmox: wait of others while 100 guests boot", "ms", ms(extra), 1000, 100),
	}, nil
}

type comparison struct {
	ours, floor sample
	calls       float64 // of each machine besides polls
}

// makespan makes n machines at once, in turns, with the workers of a real node.
func makespan(ctx context.Context, n, turns, nodes int) (comparison, error) {
	var r comparison
	var calls atomic.Int64
	srv := &pvetest.Server{
		Scale: 1, TaskTime: map[string]time.Duration{"qmclone": cloneTime, "qmstart": startTime},
		AgentDelay: func(int) time.Duration { return bootTime },
		Hold: func(r *http.Request) func() {
			if !poll.MatchString(r.Method + " " + r.URL.Path) {
				calls.Add(1)
			}
			return nil
		},
	}
	defer srv.Close()
	c, err := newCluster(srv, nodes)
	if err != nil {
		return r, err
	}
	for range turns {
		start := time.Now()
		if err := c.create(ctx, n); err != nil {
			return r, err
		}
		r.ours = append(r.ours, time.Since(start))
		start = time.Now()
		var g sync.WaitGroup
		for range n {
			g.Go(func() { time.Sleep(cloneTime); time.Sleep(startTime); time.Sleep(bootTime) })
		}
		g.Wait()
		r.floor = append(r.floor, time.Since(start))
	}
	r.calls = float64(calls.Load()) / float64(n*turns)
	return r, nil
}

// poll matches the calls that wait for a task or a guest.
var poll = regexp.MustCompile(`/tasks(/.*/status)?$|/agent/ping$`)

// reconcileCalls returns how many calls it takes to list a thousand machines
// among nine thousand of others when nothing has changed.
func reconcileCalls(ctx context.Context) (float64, error) {
	var calls atomic.Int64
	srv := &pvetest.Server{Hold: func(*http.Request) func() { calls.Add(1); return nil }}
	defer srv.Close()
	c, err := newCluster(srv, 4)
	if err != nil {
		return 0, err
	}
	for range 10 {
		if err := c.create(ctx, 100); err != nil {
			return 0, err
		}
	}
	srv.Edit(func(all *pvetest.Cluster) {
		for i := range 9000 {
			all.AddVM("pve", 20000+i, "foreign").Running = true
		}
	})
	for range 2 { // the first reads what it does not know
		calls.Store(0)
		if list, err := c.backend.List(ctx); err != nil || len(list) != 1000 {
			return 0, fmt.Errorf("list has %d machines: %w", len(list), err)
		}
	}
	return float64(calls.Load()), nil
}

// neighbourWaits returns how much longer another user's change of a config takes
// at most while 100 machines of one node are made and boot, in real time: an
// agent that does not answer holds one of the node's three workers for 3 s.
func neighbourWaits(ctx context.Context) (time.Duration, error) {
	srv := &pvetest.Server{Scale: 1, CallTime: 5 * time.Millisecond, AgentDelay: func(int) time.Duration { return bootTime }}
	defer srv.Close()
	c, err := newCluster(srv, 1)
	if err != nil {
		return 0, err
	}
	without, err := c.worst(ctx, func(context.Context) error { time.Sleep(2 * time.Second); return nil })
	if err != nil {
		return 0, err
	}
	with, err := c.worst(ctx, func(ctx context.Context) error {
		return c.create(ctx, 100)
	})
	return with - without, err
}

// worst changes a config over and over while do runs, and returns the longest
// that this took.
func (c *cluster) worst(ctx context.Context, do func(context.Context) error) (longest time.Duration, err error) {
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	vm := pve.VM{Node: "pve", ID: neighbour}
	for {
		select {
		case err := <-done:
			return longest, err
		default:
		}
		start := time.Now()
		if err := c.other.SetConfig(ctx, vm, pve.Change{Set: map[string]string{"cores": "1"}}); err != nil {
			return longest, errors.Join(err, <-done)
		}
		longest = max(longest, time.Since(start))
		time.Sleep(10 * time.Millisecond)
	}
}
