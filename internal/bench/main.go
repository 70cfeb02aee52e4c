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
)

func main() {
	bin := flag.String("bin", "bin", "directory of the programs")
	asJSON := flag.Bool("json", false, "print one line of JSON a figure")
	forks := flag.Int("forks", 0, "instead, run the arguments that often and print how long each took, in nanoseconds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var err error
	if *forks > 0 {
		err = printForks(ctx, os.Stdout, *forks, flag.Args())
	} else {
		err = run(ctx, *bin, newReport(os.Stdout, *asJSON))
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

func run(ctx context.Context, bin string, out report) (err error) {
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
		what string
		do   func(context.Context) ([]figure, error)
	}{
		{"memory of the daemon", b.memory}, // first, while it has done nothing
		{"create", b.create},
		{"exec over the bridge", b.exec},
		{"files", b.files},
		{"guest on the plain host", b.guest},
		{"machines of a simulated Proxmox VE", b.proxmox},
	} {
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
