// Command dist builds what is given to others: an archive for each
// architecture, a bundle (.mcpb) that desktop clients install with one click,
// the server.json of the MCP registry, and checksums. "make dist" runs it.
//
// The same commit makes the same bytes: paths are trimmed, and files bear the
// commit's time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("dist", flag.ContinueOnError)
	flags.SetOutput(log)
	out := flags.String("out", "dist", "directory for what is built; what is in it is replaced")
	arches := flags.String("arch", "amd64,arm64", "architectures of Linux, separated by commas")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := clear(*out); err != nil {
		return err
	}
	var files []string
	var packages []registryPackage
	var version string
	for arch := range strings.SplitSeq(*arches, ",") {
		fmt.Fprintf(log, "building for linux/%s\n", arch)
		b, err := build(ctx, filepath.Join(*out, "linux-"+arch), arch)
		if err != nil {
			return err
		}
		archive := filepath.Join(*out, fmt.Sprintf("agentlab-%s-linux-%s.tar.gz", b.version, arch))
		if err := writeArchive(archive, b); err != nil {
			return fmt.Errorf("write %s: %w", archive, err)
		}
		bundle := filepath.Join(*out, fmt.Sprintf("agentlab-mcp-%s-linux-%s.mcpb", b.version, arch))
		if err := writeBundle(bundle, b); err != nil {
			return fmt.Errorf("write %s: %w", bundle, err)
		}
		p, err := packageOf(bundle, b.version)
		if err != nil {
			return err
		}
		version = b.version
		files = append(files, archive, bundle)
		packages = append(packages, p)
	}
	registry := filepath.Join(*out, "server.json")
	if err := writeRegistry(registry, version, packages); err != nil {
		return err
	}
	return writeSums(filepath.Join(*out, "SHA256SUMS"), append(files, registry))
}

// clear removes what an earlier run has built, and nothing else.
func clear(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, pattern := range []string{"linux-*/*", "linux-*", "agentlab-*", "server.json", "SHA256SUMS"} {
		old, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil {
			return err
		}
		for _, name := range old {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
