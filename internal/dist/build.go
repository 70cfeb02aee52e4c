package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// built is what one architecture's users get.
type built struct {
	arch     string
	version  string    // semantic, without the v
	time     time.Time // of the commit
	programs []string  // paths
}

// build builds the programs for Linux into dir. They need no C library, so
// that they run on every distribution; the store is then modernc.org/sqlite.
func build(ctx context.Context, dir, arch string) (built, error) {
	b := built{arch: arch}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return b, err
	}
	for _, p := range []struct{ name, module, pkg string }{
		{"agentlab", ".", "./cmd/agentlab"},
		{"agentlab-guest", ".", "./cmd/agentlab-guest"},
		{"runsc", "provisioner/local/runsc", "gvisor.dev/gvisor/runsc"},
	} {
		path := filepath.Join(dir, p.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, p.pkg)
		cmd.Dir = p.module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return b, fmt.Errorf("build %s for %s: %w", p.name, arch, err)
		}
		b.programs = append(b.programs, path)
	}
	b.version, b.time, err = stamp(b.programs[0])
	return b, err
}

// stamp is the version and time that the go command recorded in a program.
// Without version control it is a development version of no time.
func stamp(program string) (string, time.Time, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("version of %s: %w", program, err)
	}
	version := strings.TrimPrefix(info.Main.Version, "v")
	if version == "" || version == "(devel)" {
		version = "0.0.0-devel"
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			at, err = time.Parse(time.RFC3339, s.Value)
		}
	}
	return version, at, err
}
