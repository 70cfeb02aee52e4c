// Command dist builds what is given to others: an archive, a Debian package and
// software bills of materials for each architecture of Linux, a bundle (.mcpb) that desktop clients install with one
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
	runsc := flags.String("runsc", "", "a runsc that is built already, for the one architecture; empty builds it")
	tools := flags.String("tools", "bin", "directory of nfpm and cyclonedx-gomod; empty makes neither Debian packages nor SBOMs")
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
	share, err := os.MkdirTemp("", "agentlab-share-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(share) }()
	if err := sharing(ctx, share); err != nil {
		return err
	}
	s := servers{out: *out, tools: *tools, share: share, runsc: *runsc, log: log}
	files, packages, version, err := s.build(ctx, *arches)
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

// servers are what Linux's users get.
type servers struct {
	out, tools, share, runsc string // directories, and a runsc that is built already
	log                      io.Writer
}

// build builds an archive, a Debian package, bills of materials and a bundle for
// each architecture.
func (s servers) build(ctx context.Context, arches string) (files []string, packages []registryPackage, version string, err error) {
	for arch := range strings.SplitSeq(arches, ",") {
		_, _ = fmt.Fprintf(s.log, "building for linux/%s\n", arch)
		b, err := build(ctx, filepath.Join(s.out, "linux-"+arch), "linux/"+arch, server(s.runsc))
		if err != nil {
			return nil, nil, "", err
		}
		archive := filepath.Join(s.out, fmt.Sprintf("agentlab-%s-linux-%s.tar.gz", b.version, arch))
		if err := writeArchive(archive, s.share, b); err != nil {
			return nil, nil, "", fmt.Errorf("write %s: %w", archive, err)
		}
		more, err := s.packaged(ctx, b)
		if err != nil {
			return nil, nil, "", err
		}
		files = append(files, more...)
		bundle := filepath.Join(s.out, fmt.Sprintf("agentlab-mcp-%s-linux-%s.mcpb", b.version, arch))
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

// packaged makes what needs the tools, and returns the names of the files.
func (s servers) packaged(ctx context.Context, b built) (files []string, err error) {
	if s.tools == "" {
		return nil, nil
	}
	deb, err := writeDeb(ctx, s.out, s.tools, s.share, b)
	if err != nil {
		return nil, err
	}
	boms, err := writeSBOMs(ctx, s.out, s.tools, b)
	return append(boms, deb), err
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
	for _, pattern := range []string{"linux-*/*", "linux-*", "remote-*/*", "remote-*", "agentlab-*", "agentlab_*.deb", "server.json", "SHA256SUMS"} {
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
