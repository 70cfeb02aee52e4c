// Command demo shows AgentLab's main job on real sandboxes: an MCP client of
// another project starts `agentlab mcp` over stdio and does with it what an
// agent does. It believes nothing: each step checks what it shows, and the first
// that is not as expected ends the demo with exit code 1. Nothing is left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// limit ends a demo that hangs.
const limit = 2 * time.Minute

func main() {
	bin := flag.String("bin", "bin", "directory of the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, newTranscript(os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, out *transcript) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	st, err := stage.New(bin)
	if err != nil {
		return err
	}
	defer func() {
		if st != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	if err := st.AddProfile("brief", "description: ends after three seconds\nttl: 3s\n"); err != nil {
		return err
	}

	d := &demo{stage: st, out: out}
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"A client starts `agentlab mcp` over stdio", d.connect},
		{"It creates two sandboxes, one of them for three seconds", d.create},
		{"It writes a program, runs it and reads its result", d.program},
		{"It starts a background process and reads its output as it comes", d.background},
		{"The host is out of reach", d.isolation},
		{"One sandbox has met its end", d.ttl},
		{"The other is destroyed", d.destroy},
	} {
		out.title(step.title)
		if err := step.do(ctx); err != nil {
			out.failed(err)
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}

	out.title("Nothing is left")
	closing := st
	st = nil
	if err := closing.Close(); err != nil {
		out.failed(err)
		return err
	}
	if _, err := os.Stat(closing.Dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is still there", closing.Dir)
	}
	out.step("stop", "no process, no directory: "+closing.Dir+" is gone")
	out.done()
	return nil
}
