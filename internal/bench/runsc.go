package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// runsc is gVisor used directly: the floor. local is the directory in which
// the local backend keeps its machines.
type runsc struct {
	program string
	local   string
	work    string // for containers of our own
}

func newRunsc(st *stage.Stage) runsc {
	return runsc{
		program: st.Bin("runsc"),
		local:   filepath.Join(st.Dir, "state", "agentlab", "local"),
		work:    filepath.Join(st.Dir, "bare"),
	}
}

// shell is what a sandbox gives a command line to.
func shell(command string) []string { return []string{"/bin/bash", "-lc", command} }

func (r runsc) command(ctx context.Context, root string, args ...string) *exec.Cmd {
	flags := []string{"--root=" + root, "--platform=systrap", "--network=none"}
	if os.Getuid() != 0 {
		flags = append(flags, "--rootless", "--ignore-cgroups")
	}
	return exec.CommandContext(ctx, r.program, append(flags, args...)...)
}

// exec runs argv in the machine id of the local backend.
func (r runsc) exec(ctx context.Context, id string, stdin io.Reader, stdout io.Writer, argv ...string) error {
	cmd := r.command(ctx, filepath.Join(r.local, "runsc"), append([]string{"exec", id}, argv...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runsc exec: %w: %s", err, stderr.String())
	}
	return nil
}

// bundle makes a bundle that differs from that of machine id only in that it
// runs argv, and shares no directory with the host.
func (r runsc) bundle(id string, argv []string) (dir string, err error) {
	text, err := os.ReadFile(filepath.Join(r.local, "machines", id, "config.json"))
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("decode bundle of %s: %w", id, err)
	}
	spec.Process.Args = argv
	spec.Annotations = nil
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return strings.HasPrefix(m.Source, filepath.Join(r.local, "machines"))
	})
	if spec.Linux != nil {
		spec.Linux.CgroupsPath = "/agentlab-bench"
	}
	if text, err = json.Marshal(spec); err != nil {
		return "", err
	}
	for _, sub := range []string{"bundle", "disk", "root"} {
		if err := os.MkdirAll(filepath.Join(r.work, sub), 0o711); err != nil {
			return "", err
		}
	}
	dir = filepath.Join(r.work, "bundle")
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// run runs the bundle from its start to its end.
func (r runsc) run(ctx context.Context, bundle, id string) error {
	cmd := r.command(ctx, filepath.Join(r.work, "root"),
		"--overlay2=root:dir="+filepath.Join(r.work, "disk"), "run", "--bundle="+bundle, id)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("runsc run: %w: %s", err, out)
	}
	return nil
}
