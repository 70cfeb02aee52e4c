// Command bench measures what AgentLab adds to the machinery below it. Each
// figure is a ratio to a floor, a bare runsc or a fork and exec, that is measured
// in the same run and turn by turn, so that a slow or busy host slows both. It
// judges and does not fail: a figure that misses its goal is to be explained by
// a profile.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func main() {
	pvetest.GuestMain() // it is also a machine of a simulated Proxmox VE
	bin := flag.String("bin", "bin", "directory of the programs")
	asJSON := flag.Bool("json", false, "print one line of JSON a figure")
	only := flag.String("only", "", "measure only this: memory, http, crowd, bridge, create, pool, exec, files, guest, records, list, proxmox or ends")
	forks := flag.Int("forks", 0, "instead, run the arguments that often and print how long each took, in nanoseconds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var err error
	if *forks > 0 {
		err = printForks(ctx, os.Stdout, *forks, flag.Args())
	} else {
		err = run(ctx, *bin, *only, newReport(os.Stdout, *asJSON))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func newReport(w io.Writer, asJSON bool) report {
	if asJSON {
		return lines{json.NewEncoder(w)}
	}
	return newTable(w)
}

// bench is what the measurements share.
type bench struct {
	stage  *stage.Stage
	client *stage.Client
	runsc  runsc
}

func run(ctx context.Context, bin, only string, out report) (err error) {
	st, err := stage.New(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.close(), st.Close()) }()
	client, err := st.Connect(ctx)
	if err != nil {
		return err
	}
	b := &bench{stage: st, client: client, runsc: newRunsc(st)}
	for _, m := range []struct {
		name, what string
		do         func(context.Context) ([]figure, error)
	}{
		{"memory", "memory of the daemon", b.memory}, // first, while it has done nothing
		{"http", "calls over HTTP", b.mcp},
		{"crowd", "calls in a crowd", b.crowd},
		{"bridge", "calls over the bridge", b.bridge},
		{"create", "create", b.create},
		{"pool", "create from a pool", b.pool},
		{"exec", "exec over the bridge", b.exec},
		{"files", "files", b.files},
		{"guest", "guest on the plain host", b.guest},
		{"records", "looks at many records", b.records},
		{"list", "the command that lists 1,000 sandboxes", b.list},
		{"proxmox", "machines of a simulated Proxmox VE", b.proxmox},
		{"ends", "10,000 machines, some of which end", b.ends},
	} {
		if only != "" && only != m.name {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", m.what)
		figures, err := m.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		for _, f := range figures {
			if err := out.add(f); err != nil {
				return err
			}
		}
	}
	return nil
}
