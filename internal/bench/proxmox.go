package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// create makes n machines at once, and calls then with each.
func (c *cluster) create(ctx context.Context, n int, then func(context.Context, provisioner.Machine) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for range n {
		c.made++
		end := time.Now().Add(time.Hour)
		spec := provisioner.Spec{
			Papers: provisioner.Papers{Instance: "bench", Sandbox: fmt.Sprintf("sb-%d", c.made), Owner: "bench", Profile: "p", End: end, MaxEnd: end},
			Cores:  1, MemoryMB: 256, DiskMB: 3072, Network: "none",
		}
		g.Go(func() error {
			m, err := c.backend.Create(ctx, spec)
			if err != nil || then == nil {
				return err
			}
			return then(ctx, m)
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
	many, err := makespan(ctx, 100, 2, 4)
	if err != nil {
		return nil, err
	}
	extra, err := neighbourWaits(ctx)
	if err != nil {
		return nil, err
	}
	budget := float64(cloneTime+startTime+25*time.Millisecond) / float64(cloneTime+startTime)
	return []figure{
		slower("pve_create", "Proxmox: create / clone and start", one.ours, one.floor, budget),
		slower("pve_create_100", "Proxmox: 100 creates on 4 nodes / the same", many.ours, many.floor, 1.15),
		size("pve_neighbour", "Proxmox: wait of others while 100 guests boot", "ms", ms(extra), 1000, 100),
	}, nil
}

type comparison struct{ ours, floor sample }

// makespan makes n machines at once, in turns.
func makespan(ctx context.Context, n, turns, nodes int) (comparison, error) {
	srv := &pvetest.Server{TaskTime: map[string]time.Duration{"qmclone": cloneTime, "qmstart": startTime}}
	defer srv.Close()
	var r comparison
	c, err := newCluster(srv, nodes)
	if err != nil {
		return r, err
	}
	for range turns {
		start := time.Now()
		if err := c.create(ctx, n, nil); err != nil {
			return r, err
		}
		r.ours = append(r.ours, time.Since(start))
		start = time.Now()
		var g sync.WaitGroup
		for range n {
			g.Go(func() { time.Sleep(cloneTime); time.Sleep(startTime) })
		}
		g.Wait()
		r.floor = append(r.floor, time.Since(start))
	}
	return r, nil
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
		return c.create(ctx, 100, func(ctx context.Context, m provisioner.Machine) error {
			conn, err := c.backend.Dial(ctx, m.Ref)
			if err != nil {
				return err
			}
			return conn.Close()
		})
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
