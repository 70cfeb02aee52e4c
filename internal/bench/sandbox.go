package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// newSandbox makes a sandbox and runs a first command in it.
func (b *bench) newSandbox(ctx context.Context) (id string, err error) {
	var sb struct {
		ID string `json:"sandbox_id"`
	}
	if _, err := b.client.Call(ctx, "create_sandbox", nil, &sb); err != nil {
		return "", err
	}
	_, err = b.run(ctx, sb.ID, "true")
	return sb.ID, err
}

// run runs a command that should succeed, and returns its text.
func (b *bench) run(ctx context.Context, id, command string) (string, error) {
	var exit struct {
		Code int `json:"exit_code"`
	}
	text, err := b.client.Call(ctx, "exec", stage.Args{"sandbox_id": id, "command": command}, &exit)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("%q: %s", command, text)
	}
	return text, err
}

func (b *bench) destroy(ctx context.Context, id string) error {
	_, err := b.client.Call(ctx, "destroy", stage.Args{"sandbox_id": id}, nil)
	return err
}

// memory measures the daemon before it has a sandbox, and with some, and what
// these take of the CPUs while nobody uses them.
func (b *bench) memory(ctx context.Context) ([]figure, error) {
	const sandboxes = 20
	idle, err := b.daemonRSS()
	if err != nil {
		return nil, err
	}
	var ids []string
	for range sandboxes {
		id, err := b.newSandbox(ctx)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	loaded, err := b.daemonRSS()
	if err != nil {
		return nil, err
	}
	const unused = 5 * time.Second
	before, err := b.stage.MachinesCPU()
	if err != nil {
		return nil, err
	}
	time.Sleep(unused)
	after, err := b.stage.MachinesCPU()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := b.destroy(ctx, id); err != nil {
			return nil, err
		}
	}
	return []figure{
		size("cpu_per_sandbox", "CPU that an unused sandbox takes", "%", 100*(after-before).Seconds()/unused.Seconds()/sandboxes, 1, sandboxes),
		size("rss_idle", "daemon RSS, idle", "MB", idle/1024, 40, 1),
		size("rss_per_sandbox", "daemon RSS, a sandbox more", "kB", (loaded-idle)/sandboxes, 300, sandboxes),
	}, nil
}

// daemonRSS returns kB.
func (b *bench) daemonRSS() (float64, error) {
	pid, err := b.stage.DaemonPID()
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("look at the daemon: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	return strconv.ParseFloat(strings.Fields(rest + " ?")[0], 64)
}

// create compares the time to the end of the first command with a container
// that does nothing else.
func (b *bench) create(ctx context.Context) ([]figure, error) {
	const n = 15
	model, err := b.newSandbox(ctx)
	if err != nil {
		return nil, err
	}
	bundle, err := b.runsc.bundle(model, shell("true"))
	if err != nil {
		return nil, err
	}
	var ours, floor sample
	for i := range n {
		start := time.Now()
		id, err := b.newSandbox(ctx)
		if err != nil {
			return nil, err
		}
		ours = append(ours, time.Since(start))
		if err := b.destroy(ctx, id); err != nil {
			return nil, err
		}

		start = time.Now()
		if err := b.runsc.run(ctx, bundle, "bare-"+strconv.Itoa(i)); err != nil {
			return nil, err
		}
		floor = append(floor, time.Since(start))
	}
	return []figure{
		slower("create", "create to first command done / runsc run", ours, floor, 1.25),
	}, b.destroy(ctx, model)
}

// exec compares a command over the bridge with runsc exec, and with the fork
// and exec that it comes down to.
func (b *bench) exec(ctx context.Context) ([]figure, error) {
	const rounds, each = 20, 10
	id, err := b.newSandbox(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.upload(ctx, id, "bench"); err != nil {
		return nil, err
	}
	var ours, byRunsc, forks sample
	for range rounds {
		for range each {
			start := time.Now()
			if _, err := b.run(ctx, id, "true"); err != nil {
				return nil, err
			}
			ours = append(ours, time.Since(start))

			start = time.Now()
			if err := b.runsc.exec(ctx, id, nil, nil, shell("true")...); err != nil {
				return nil, err
			}
			byRunsc = append(byRunsc, time.Since(start))
		}
		text, err := b.run(ctx, id, fmt.Sprintf("./bench -forks %d /bin/bash -lc true", each))
		if err != nil {
			return nil, err
		}
		_, times, _ := strings.Cut(text, "\n") // below the line that says how it ended
		s, err := parseForks([]byte(times))
		if err != nil {
			return nil, err
		}
		forks = append(forks, s...)
	}
	return []figure{
		slower("exec_runsc", "exec true over MCP / runsc exec", ours, byRunsc, 0.8),
		slower("exec_fork", "exec true over MCP / fork+exec inside", ours, forks, 1.3),
	}, b.destroy(ctx, id)
}

// upload copies this program into the home of a sandbox.
func (b *bench) upload(ctx context.Context, id, name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	const most = 3 << 20 // of one write_file, before base64
	for off := 0; off < len(program); off += most {
		_, err := b.client.Call(ctx, "write_file", stage.Args{
			"sandbox_id": id, "path": filepath.Base(name), "mode": "0755", "encoding": "base64", "append": off > 0,
			"content": base64.StdEncoding.EncodeToString(program[off:min(off+most, len(program))]),
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}
