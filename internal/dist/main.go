// Command dist builds what is given to others: an archive for each
// architecture of Linux, a bundle (.mcpb) that desktop clients install with one
// click, another for each platform with only the bridge to a server elsewhere,
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
	bridges := flags.String("remote", "darwin/amd64,darwin/arm64,windows/amd64,linux/amd64,linux/arm64", "platforms of the bridge to a server elsewhere, separated by commas; empty is none")
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
	files, packages, version, err := servers(ctx, *out, *arches, log)
	if err != nil {
		return err
	}
	more, err := remotes(ctx, *out, *bridges, log)
	if err != nil {
		return err
	}
	registry := filepath.Join(*out, "server.json")
	if err := writeRegistry(registry, version, packages); err != nil {
		return err
	}
	return writeSums(filepath.Join(*out, "SHA256SUMS"), append(append(files, more...), registry))
}

// servers builds what Linux's users get: an archive and a bundle each.
func servers(ctx context.Context, out, arches string, log io.Writer) (files []string, packages []registryPackage, version string, err error) {
	for arch := range strings.SplitSeq(arches, ",") {
		_, _ = fmt.Fprintf(log, "building for linux/%s\n", arch)
		b, err := build(ctx, filepath.Join(out, "linux-"+arch), "linux/"+arch, server())
		if err != nil {
			return nil, nil, "", err
		}
		archive := filepath.Join(out, fmt.Sprintf("agentlab-%s-linux-%s.tar.gz", b.version, arch))
		if err := writeArchive(archive, b); err != nil {
			return nil, nil, "", fmt.Errorf("write %s: %w", archive, err)
		}
		bundle := filepath.Join(out, fmt.Sprintf("agentlab-mcp-%s-linux-%s.mcpb", b.version, arch))
		if err := writeBundle(bundle, b, manifest(b)); err != nil {
			return nil, nil, "", fmt.Errorf("write %s: %w", bundle, err)
		}
		p, err := packageOf(bundle, b.version)
		if err != nil {
			return nil, nil, "", err
		}
		version = b.version
		files = append(files, archive, bundle)
		packages = append(packages, p)
	}
	return files, packages, version, nil
}

// remotes builds the bridge to a server elsewhere: a bundle each.
func remotes(ctx context.Context, out, platforms string, log io.Writer) (files []string, err error) {
	for platform := range strings.FieldsFuncSeq(platforms, func(r rune) bool { return r == ',' }) {
		_, _ = fmt.Fprintf(log, "building the bridge for %s\n", platform)
		b, err := build(ctx, filepath.Join(out, "remote-"+strings.ReplaceAll(platform, "/", "-")), platform, bridge())
		if err != nil {
			return nil, err
		}
		bundle := filepath.Join(out, fmt.Sprintf("agentlab-remote-mcp-%s-%s-%s.mcpb", b.version, b.os, b.arch))
		if err := writeBundle(bundle, b, remoteManifest(b)); err != nil {
			return nil, fmt.Errorf("write %s: %w", bundle, err)
		}
		files = append(files, bundle)
	}
	return files, nil
}

// clear removes what an earlier run has built, and nothing else.
func clear(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, pattern := range []string{"linux-*/*", "linux-*", "remote-*/*", "remote-*", "agentlab-*", "server.json", "SHA256SUMS"} {
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
