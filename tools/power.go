package tools

import (
	"context"
	"fmt"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

type stopIn struct {
	target
	Pause bool `arg:"pause" doc:"Hold it still with all that runs in it instead"`
	Wait  int  `arg:"wait_seconds" default:"45" min:"0" max:"55" doc:"How long to wait until it is stopped"`
}

// powerOut is how a sandbox stands that was stopped or started.
type powerOut struct {
	SandboxID string `json:"sandbox_id"`
	State     string `json:"state"`
}

func powered(sb sessions.Sandbox, more string) Result {
	state := strings.ToLower(string(sb.State))
	return structured(powerOut{sb.ID, state}, fmt.Sprintf("%s is %s until %s%s", sb.ID, state, clock(sb.End), more))
}

func (s *service) stopSandbox() Tool {
	return define(s, Tool{
		Name: "stop_sandbox", Title: "Stop sandbox",
		Scope:       sessions.ScopeWrite,
		Description: "Switch a sandbox off; its files stay, its processes end. It ends at expires_at all the same. Not every profile can.",
		Output:      outputOf[powerOut](),
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Meta:        hint("shut down, pause, suspend a sandbox"),
		Doing:       "stopping the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in stopIn) (Result, error) {
		var sb sessions.Sandbox
		var err error
		if in.Pause {
			sb, err = m.Pause(ctx, in.SandboxID)
		} else {
			sb, err = m.Stop(ctx, in.SandboxID, seconds(in.Wait))
		}
		if err != nil {
			return Result{}, err
		}
		if sb.State == sessions.Stopping {
			return powered(sb, "; it goes on with that by itself, list_sandboxes tells when it is stopped"), nil
		}
		return powered(sb, "; start_sandbox lets it go on"), nil
	})
}

type startIn struct {
	target
	Wait int `arg:"wait_seconds" default:"45" min:"0" max:"55" doc:"How long to wait until it is ready"`
}

func (s *service) startSandbox() Tool {
	return define(s, Tool{
		Name: "start_sandbox", Title: "Start sandbox",
		Scope:       sessions.ScopeWrite,
		Description: "Start a stopped sandbox, or let a paused one go on.",
		Output:      outputOf[powerOut](),
		Annotations: Annotations{Idempotent: true},
		Meta:        hint("boot, resume a sandbox"),
		Doing:       "starting the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in startIn) (Result, error) {
		sb, err := m.Start(ctx, in.SandboxID, seconds(in.Wait))
		if err != nil {
			return Result{}, err
		}
		return powered(sb, ""), nil
	})
}

type resizeIn struct {
	target
	Cores    int `arg:"cpu" min:"1"`
	MemoryMB int `arg:"memory_mb" min:"1"`
	DiskGB   int `arg:"disk_gb" min:"1"`
}

type resizeOut struct {
	SandboxID string `json:"sandbox_id"`
	Cores     int    `json:"cpu"`
	MemoryMB  int    `json:"memory_mb"`
	DiskGB    int    `json:"disk_gb"`
}

func (s *service) resizeSandbox() Tool {
	return define(s, Tool{
		Name: "resize_sandbox", Title: "Resize sandbox",
		Scope:       sessions.ScopeWrite,
		Description: "Give a stopped sandbox other cores or memory, or more disk. Not every profile can.",
		Output:      outputOf[resizeOut](),
		Annotations: Annotations{Idempotent: true},
		Meta:        hint("more memory, bigger disk"),
		Doing:       "resizing the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in resizeIn) (Result, error) {
		sb, err := m.Resize(ctx, in.SandboxID, sessions.Size{Cores: in.Cores, MemoryMB: in.MemoryMB, DiskMB: in.DiskGB << 10})
		if err != nil {
			return Result{}, err
		}
		out := resizeOut{sb.ID, sb.Cores, sb.MemoryMB, sb.DiskMB >> 10}
		return structured(out, fmt.Sprintf("%s has cpu %d, memory_mb %d and disk_gb %d when it is started", out.SandboxID, out.Cores, out.MemoryMB, out.DiskGB)), nil
	})
}
