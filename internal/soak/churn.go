package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// churn is what goes on: clients that make sandboxes, use and end them.
type churn struct {
	stage                            *stage.Stage
	made, expired, commands, refused atomic.Int64
}

const (
	clients    = 2                // of each profile
	callLimit  = 2 * time.Minute  // of one call, on a busy host
	otherPause = 30 * time.Second // between two daemons that are to be refused
)

// run churns until ctx ends.
func (c *churn) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for profile := range profiles {
		for n := range clients {
			g.Go(func() error { return c.client(ctx, profile, n) })
		}
	}
	g.Go(func() error { return c.others(ctx) })
	return g.Wait()
}

// client is one client, which lives as long as the churn and ends what it began.
func (c *churn) client(ctx context.Context, profile string, n int) error {
	client, err := c.stage.Connect(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer client.Close()
	for round := n; ctx.Err() == nil; round++ {
		if err := c.round(context.WithoutCancel(ctx), client, profile, round%3 == 0); err != nil {
			return fmt.Errorf("profile %s, round %d: %w", profile, round, err)
		}
	}
	return nil
}

// round is the life of one sandbox. It is destroyed, or left to its time.
func (c *churn) round(ctx context.Context, client *stage.Client, profile string, expires bool) error {
	var box struct {
		ID string `json:"sandbox_id"`
	}
	var process struct {
		ID string `json:"process_id"`
	}
	call := func(tool string, args stage.Args, into any) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		if tool != "create_sandbox" {
			args["sandbox_id"] = box.ID
		}
		return client.Call(ctx, tool, args, into)
	}
	if _, err := call("create_sandbox", stage.Args{"profile": profile, "wait_seconds": 55}, &box); err != nil {
		return err
	}
	c.made.Add(1)
	text, err := call("exec", stage.Args{"command": "echo hello; echo more >file; cat file"}, nil)
	if err == nil && !strings.Contains(text, "hello\nmore") {
		err = fmt.Errorf("exec printed %q", text)
	}
	if err != nil {
		return err
	}
	if _, err := call("exec", stage.Args{"command": "i=0; while :; do echo $i; i=$((i+1)); sleep 1; done", "wait_seconds": 0}, &process); err != nil {
		return err
	}
	if _, err := call("read_process", stage.Args{"process_id": process.ID, "wait_seconds": 20, "until": "0\n"}, nil); err != nil {
		return err
	}
	c.commands.Add(3)
	if expires {
		c.expired.Add(1)
		_, err = call("extend_ttl", stage.Args{"ttl_seconds": 1}, nil)
	} else {
		_, err = call("destroy", stage.Args{}, nil)
	}
	return err
}

// others starts daemons beside the one that runs, which must be refused.
func (c *churn) others(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(otherPause):
		}
		limited, cancel := context.WithTimeout(ctx, callLimit)
		cmd := exec.CommandContext(limited, c.stage.Bin("agentlab"), "serve")
		cmd.Env = c.stage.Env
		said, err := cmd.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // we have ended it
		case err == nil || !errors.As(err, &exit) || exit.ExitCode() < 0:
			return fmt.Errorf("another daemon was not refused: %w\n%s", err, said)
		}
		c.refused.Add(1)
	}
}

// settled waits until all sandboxes have ended, and says what is left then.
func (c *churn) settled(ctx context.Context, sim *pvesim.Sim) error {
	client, err := c.stage.Connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	for ctx.Err() == nil {
		machines, err := c.stage.Machines()
		if err != nil {
			return err
		}
		left := append(machines, sim.Changed()...)
		if len(left) == 0 {
			return nil
		}
		err = fmt.Errorf("left at the end:\n%s", strings.Join(left, "\n"))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
	return ctx.Err()
}
