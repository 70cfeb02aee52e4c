package tools_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// switchable is a backend whose machines can be switched off and on, and held still.
type switchable struct{ *backend }

func (b switchable) Stop(_ context.Context, ref provisioner.Ref) error {
	return b.set(ref.Sandbox, false)
}

func (b switchable) Start(_ context.Context, ref provisioner.Ref) error {
	return b.set(ref.Sandbox, true)
}

func (b switchable) Pause(context.Context, provisioner.Ref) error { return nil }

func (b switchable) Resume(context.Context, provisioner.Ref) error { return nil }

func (b switchable) Resize(_ context.Context, ref provisioner.Ref, papers provisioner.Papers, _ provisioner.Size) error {
	return b.Relabel(context.Background(), ref, papers)
}

func (b switchable) set(id string, running bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.listed[id]
	m.Running = running
	b.listed[id] = m
	return nil
}

func TestStopAndStart(t *testing.T) {
	e := newEnv(t)
	id := e.sandbox
	e.wantError("stop_sandbox", args{"pause": 3}, "pause")
	res := e.call("stop_sandbox", args{})
	if text := textOf(res); !strings.Contains(text, id+" is stopped until 20") || !strings.Contains(text, "; start_sandbox lets it go on") {
		t.Errorf("the text is %q", text)
	}
	if got := fmt.Sprintf("%+v", res.Structured); got != "{SandboxID:"+id+" State:stopped}" || res.Sandbox != id {
		t.Errorf("structured %s", got)
	}
	e.wantText("list_sandboxes", args{"sandbox_id": id}, id+" is stopped until", "· stopped by its owner")
	e.wantText("extend_ttl", args{"ttl_seconds": 600}, "lives until")
	e.wantError("exec", args{"command": "true"}, "is STOPPED (stopped by its owner); start it with start_sandbox")
	e.wantError("resize_sandbox", args{}, "nothing is to be changed: give cpu, memory_mb or disk_gb")
	e.wantError("resize_sandbox", args{"cpu": 9}, "cpu is 9, allowed: 1 to 8")
	e.wantText("resize_sandbox", args{"cpu": 3, "disk_gb": 5}, id+" has cpu 3, memory_mb 2048 and disk_gb 5 when it is started")
	e.wantText("start_sandbox", args{}, id+" is ready until")
	e.wantError("resize_sandbox", args{"cpu": 4}, "is READY; stop it with stop_sandbox first")
	e.wantText("exec", args{"command": "echo back"}, "back")
	e.wantText("stop_sandbox", args{"pause": true}, id+" is suspended until")
	e.wantError("read_file", args{"path": "x"}, "is SUSPENDED (paused by its owner)")
	e.wantText("start_sandbox", args{"wait_seconds": 0}, id+" is ready until")
	e.wantText("exec", args{"command": "echo back"}, "back")
}
