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

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func main() {
	pvetest.GuestMain()
	bin := flag.String("bin", "bin", "directory of the programs")
	name := flag.String("backend", "local", "what makes the sandboxes: local or proxmox, which is simulated")
	guests := flag.String("guests", "", "what the machines of proxmox are: qemu or process; empty is qemu if that can be had")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	on, err := newBackend(*name, *guests)
	if err == nil {
		err = run(ctx, *bin, on, newTranscript(os.Stdout))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, on backend, out *transcript) (err error) {
	ctx, cancel := context.WithTimeout(ctx, on.patience())
	defer cancel()
	st, err := stage.New(bin)
	if err != nil {
		return err
	}
	defer on.close()
	defer func() {
		if st != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	name, err := on.prepare(ctx, st, out)
	if err != nil {
		return err
	}
	if err := st.AddProfile("brief", "backend: "+name+"\ndescription: may end after a second\nmin_ttl: 1s\n"); err != nil {
		return err
	}

	d := &demo{stage: st, on: on, out: out}
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"A client starts `agentlab mcp` over stdio", d.connect},
		{"It creates two sandboxes, and gives one of them three seconds", d.create},
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
	if err := errors.Join(closing.Close(), on.left()); err != nil {
		out.failed(err)
		return err
	}
	if _, err := os.Stat(closing.Dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is still there", closing.Dir)
	}
	out.step("stop", "no process, no directory: "+closing.Dir+" is gone")
	if about := on.about(); about != "" {
		out.step("on the Proxmox", "as before: "+about)
	}
	out.done()
	return nil
}
