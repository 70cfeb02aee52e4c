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
		stop := m.Stop
		if in.Pause {
			stop = m.Pause
		}
		sb, err := stop(ctx, in.SandboxID)
		if err != nil {
			return Result{}, err
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
