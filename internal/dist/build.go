package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// built is what the users of one platform get.
type built struct {
	os, arch string
	version  string    // semantic, without the v
	time     time.Time // of the commit
	programs []string  // paths
}

// program is one that is built by a command, the last argument of which is the
// path that it gets.
type program struct {
	name    string
	command []string
}

// server is AgentLab, which needs Linux.
// runsc is one that is built already; empty builds it.
func server(runsc string) []program {
	gvisor := []string{"provisioner/local/runsc/build"}
	if runsc != "" {
		gvisor = []string{"cp", runsc}
	}
	return []program{ours("agentlab"), ours("agentlab-guest"), {"runsc", gvisor}}
}

// bridge is what joins a client to a server elsewhere, and runs anywhere.
func bridge() []program { return []program{ours("agentlab-remote")} }

// ours is a program of this module.
func ours(name string) program {
	return program{name, []string{"go", "build", "-C", "cmd/" + name, "-trimpath", "-ldflags=-s -w", "-o"}}
}

// build builds programs for a platform, "linux/amd64", or this one if it is empty,
// into dir. They need no C
// library, so that they run on every distribution; the store is then
// modernc.org/sqlite.
func build(ctx context.Context, dir, platform string, programs []program) (built, error) {
	platform = cmp.Or(platform, runtime.GOOS+"/"+runtime.GOARCH)
	goos, arch, _ := strings.Cut(platform, "/")
	b := built{os: goos, arch: arch}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return b, err
	}
	for _, p := range programs {
		path := filepath.Join(dir, p.name)
		if goos == "windows" {
			path += ".exe"
		}
		cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:len(p.command):len(p.command)], path)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+arch)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return b, fmt.Errorf("build %s for %s: %w", p.name, platform, err)
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
