// Command soak lets a real daemon make, use and destroy sandboxes of both
// backends for as long as it is told, and samples what the daemon takes
// meanwhile: memory, descriptors, goroutines, open records, disk. A line is
// fitted to each, after a time to warm up; one that rises beyond what chance
// does fails the run. So does whatever is left at the end.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func main() {
	pvetest.GuestMain()
	bin := flag.String("bin", "bin", "directory of the programs")
	length := flag.Duration("time", time.Hour, "how long; at least a minute")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, max(*length, time.Minute)); err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, length time.Duration) (err error) {
	st, err := stage.New(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	sim, err := pvesim.New(filepath.Join(st.Dir, "sim"), "9.2.11")
	if err != nil {
		return err
	}
	defer sim.Close()
	metrics, err := configure(ctx, st, sim)
	if err != nil {
		return err
	}
	c := &churn{stage: st}
	s := &sampler{url: "http://" + metrics + "/metrics", state: filepath.Join(st.Dir, "state", "agentlab")}
	fmt.Fprintf(os.Stderr, "soaking for %v\n", length)
	if err := together(ctx, length, c, s); err != nil {
		return err
	}
	if err := c.settled(ctx, sim); err != nil || len(s.kept) == 0 {
		return cmp.Or(err, errors.New("nothing was sampled"))
	}
	made := c.made.Load()
	fmt.Fprintf(os.Stdout, "%d sandboxes made and ended, %d by their time, %d commands, %d other daemons refused, in %v; database and log keep %.1f KB of each\n",
		made, c.expired.Load(), c.commands.Load(), c.refused.Load(), length, 1024*s.kept[len(s.kept)-1]/float64(made))
	return s.judge(os.Stdout)
}

// configure writes the configuration and returns where the daemon's metrics are.
func configure(ctx context.Context, st *stage.Stage, sim *pvesim.Sim) (metrics string, err error) {
	if metrics, err = stage.FreeAddress(ctx); err != nil {
		return "", err
	}
	for name, backend := range profiles {
		if err := st.AddProfile(name, "backend: "+backend+"\nmin_ttl: 1s\n"); err != nil {
			return "", err
		}
	}
	return metrics, st.Configure(sim.Config() + "metrics_listen: " + metrics + "\nreconcile_every: 5s\n")
}

// profiles are those of the sandboxes, and their backends.
var profiles = map[string]string{"default": "local", "vm": "proxmox"}

// together churns and samples for as long.
func together(ctx context.Context, length time.Duration, c *churn, s *sampler) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	client, err := c.stage.Connect(ctx) // which starts the daemon, and keeps it
	if err != nil {
		return err
	}
	defer client.Close()
	sampled := make(chan error, 1)
	go func() {
		err := s.sample(ctx, length)
		if err != nil {
			cancel()
		}
		sampled <- err
	}()
	return errors.Join(c.run(ctx), <-sampled)
}
