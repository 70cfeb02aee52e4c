package obs_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/agentlab-mcp/agentlab/internal/reference"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Calls are counted by tool and outcome, and no label says more than that.
func TestToolCalls(t *testing.T) {
	f := start(t, nil)
	f.add("sb-private", "local")
	client := f.connect()
	defer client.Close()
	for _, name := range []string{"works", "works", "fails", "panics", "private"} {
		_, err := client.CallTool(t.Context(), &mcp.CallToolParams{Name: name})
		if (err != nil) != (name == "private") {
			t.Fatalf("call %s: %v", name, err)
		}
	}
	f.has(
		`agentlab_tool_calls_total{outcome="ok",tool="works"} 2`,
		`agentlab_tool_calls_total{outcome="invalid",tool="fails"} 1`,
		`agentlab_tool_calls_total{outcome="panic",tool="panics"} 1`,
		`agentlab_tool_call_duration_seconds_count{tool="works"} 2`,
		`agentlab_tool_call_duration_seconds_bucket{tool="works",le="120"} 2`,
		`agentlab_build_info{version="1.2.3"} 1`,
	)
	if told := grep(f.metrics(), "private"); told != "" {
		t.Errorf("a tool that there is not, a sandbox or its owner is in a label:\n%s", told)
	}
}

// Sandboxes are those of the store at the time of the scrape.
func TestSandboxes(t *testing.T) {
	f := start(t, nil)
	f.add("sb-1", "local")
	f.add("sb-2", "local")
	f.add("sb-3", "proxmox")
	f.has(`agentlab_sandboxes{backend="local",state="REQUESTED"} 2`, `agentlab_sandboxes{backend="proxmox",state="REQUESTED"} 1`, "agentlab_ready 1")
	f.move("sb-1", sessions.Provisioning, sessions.Booting, sessions.Ready)
	f.move("sb-2", sessions.Failed)
	f.move("sb-3", sessions.Destroying, sessions.Destroyed)
	f.has(`agentlab_sandboxes{backend="local",state="READY"} 1`, `agentlab_sandboxes{backend="local",state="FAILED"} 1`)
	if old := grep(f.metrics(), "REQUESTED") + grep(f.metrics(), `"proxmox"`); old != "" {
		t.Errorf("still there:\n%s", old)
	}
	f.db.Close()
	f.has("agentlab_ready 0", `agentlab_build_info{version="1.2.3"} 1`)
	if old := grep(f.metrics(), "agentlab_sandboxes"); old != "" {
		t.Errorf("told without a store:\n%s", old)
	}
}

// What was made ahead is told by its profile, and is not among the users' own.
func TestPoolMembers(t *testing.T) {
	f := start(t, nil)
	f.add("sb-1", "local")
	f.pooled("sb-2", "small")
	f.pooled("sb-3", "small")
	f.move("sb-3", sessions.Provisioning, sessions.Booting, sessions.Ready)
	f.has(`agentlab_sandboxes{backend="local",state="REQUESTED"} 1`,
		`agentlab_pool_members{profile="small",state="REQUESTED"} 1`, `agentlab_pool_members{profile="small",state="READY"} 1`)
	if wrong := grep(f.metrics(), `agentlab_sandboxes{backend="local",state="READY"}`); wrong != "" {
		t.Errorf("a member counts as a user's:\n%s", wrong)
	}
}

// What should be gone is told: past its end, or ended and not removed.
func TestOverdueSandboxes(t *testing.T) {
	f := start(t, nil)
	f.add("sb-1", "local")
	f.has(`agentlab_sandboxes_overdue{backend="local"} 0`, `agentlab_sandbox_overdue_seconds{backend="local"} 0`)
	f.addUntil("sb-2", "local", time.Now().Add(-time.Hour))
	f.add("sb-3", "proxmox")
	f.move("sb-3", sessions.Destroying)
	f.has(`agentlab_sandboxes_overdue{backend="local"} 1`, `agentlab_sandboxes_overdue{backend="proxmox"} 1`)
	if late := regexp.MustCompile(`(?m)^agentlab_sandbox_overdue_seconds{backend="local"} 3[67]\d\d\.`); !late.MatchString(f.metrics()) {
		t.Errorf("no hour late:\n%s", grep(f.metrics(), "overdue"))
	}
	f.move("sb-2", sessions.Timeout, sessions.Destroyed)
	f.move("sb-3", sessions.Destroyed)
	f.has(`agentlab_sandboxes_overdue{backend="local"} 0`)
	if old := grep(f.metrics(), "overdue{backend=\"proxmox\""); old != "" {
		t.Errorf("still there:\n%s", old)
	}
}

// What can't be removed is told at the scrape, by backend and reason.
func TestStuckSandboxes(t *testing.T) {
	f := start(t, nil)
	f.stuck = []sessions.Stuck{{ID: "sb-private", Backend: "proxmox", Class: "no_answer"}, {Backend: "proxmox", Class: "no_answer"}, {Backend: "local", Class: "failed"}}
	f.has(`agentlab_sandboxes_stuck{backend="proxmox",reason="no_answer"} 2`, `agentlab_sandboxes_stuck{backend="local",reason="failed"} 1`)
	if told := grep(f.metrics(), "private"); told != "" {
		t.Errorf("a sandbox is named:\n%s", told)
	}
	f.stuck = nil
	if old := grep(f.metrics(), "stuck{"); old != "" {
		t.Errorf("still there:\n%s", old)
	}
}

// What is told is counted under its labels.
func TestCounts(t *testing.T) {
	f := start(t, nil)
	f.Transfer("upload", "ok", 10, time.Second)
	f.Transfer("upload", "interrupted", 5, 20*time.Second)
	f.LimitRefusal("rate")
	f.AuthFailure("missing")
	f.Created("local", "ok", 2*time.Second)
	f.Destroyed("proxmox", "not_ours", time.Second)
	f.Request("proxmox", "POST nodes/qemu/clone", "ok", time.Millisecond)
	f.Stepped("local", "boot", "unavailable", 3*time.Second)
	f.Moved("local", sessions.Ready)
	f.Ended("local", sessions.Timeout, time.Hour)
	f.Claimed("small", "warm")
	f.has(
		`agentlab_pool_claims_total{outcome="warm",profile="small"} 1`,
		`agentlab_transfers_total{direction="upload",outcome="ok"} 1`,
		`agentlab_transfers_total{direction="upload",outcome="interrupted"} 1`,
		`agentlab_transfer_bytes_total{direction="upload"} 15`,
		`agentlab_transfer_duration_seconds_bucket{direction="upload",le="10"} 1`,
		`agentlab_limit_refusals_total{limit="rate"} 1`,
		`agentlab_authentication_failures_total{reason="missing"} 1`,
		`agentlab_sandbox_creates_total{backend="local",outcome="ok"} 1`,
		`agentlab_sandbox_create_duration_seconds_sum{backend="local"} 2`,
		`agentlab_sandbox_destroys_total{backend="proxmox",outcome="not_ours"} 1`,
		`agentlab_backend_requests_total{backend="proxmox",call="POST nodes/qemu/clone",outcome="ok"} 1`,
		`agentlab_sandbox_steps_total{backend="local",outcome="unavailable",step="boot"} 1`,
		`agentlab_sandbox_step_duration_seconds_sum{backend="local",step="boot"} 3`,
		`agentlab_sandbox_state_changes_total{backend="local",state="READY"} 1`,
		`agentlab_sandbox_lifetime_seconds_sum{backend="local",state="TIMEOUT"} 3600`,
	)
}

// What may run out is told as it is at the scrape.
func TestRoom(t *testing.T) {
	f := start(t, nil)
	f.load = []sessions.Load{{Backend: "proxmox", Free: 3, Waiting: 2}}
	f.has(`agentlab_create_waiting{backend="proxmox"} 2`, `agentlab_create_slots_free{backend="proxmox"} 3`)
	f.load = nil
	body := f.metrics()
	if old := grep(body, "agentlab_create_"); old != "" {
		t.Errorf("still there:\n%s", old)
	}
	if !regexp.MustCompile(`(?m)^agentlab_state_free_bytes [1-9]`).MatchString(body) || !regexp.MustCompile(`(?m)^agentlab_state_size_bytes [1-9]`).MatchString(body) {
		t.Errorf("no room on the disk:\n%s", grep(body, "agentlab_state"))
	}
}

func TestClients(t *testing.T) {
	f := start(t, nil)
	f.has("agentlab_clients 0")
	a, b := f.connect(), f.connect()
	f.has("agentlab_clients 2", "agentlab_http_sessions 2")
	if conns := grep(f.metrics(), "agentlab_http_connections "); !regexp.MustCompile(`(?m)^agentlab_http_connections [1-9]`).MatchString(conns) {
		t.Errorf("clients without connections:\n%s", conns)
	}
	for _, c := range []*mcp.ClientSession{a, b} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); !strings.Contains(f.metrics(), "\nagentlab_clients 0\n"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still connected: %s", grep(f.metrics(), "agentlab_clients"))
		}
	}
}

// everything returns a scrape with all that there may be.
func everything(t *testing.T) string {
	t.Helper()
	f := start(t, nil)
	f.add("sb-1", "local")
	client := f.connect()
	defer client.Close()
	if _, err := client.CallTool(t.Context(), &mcp.CallToolParams{Name: "works"}); err != nil {
		t.Fatal(err)
	}
	f.Transfer("upload", "ok", 1, 1)
	f.LimitRefusal("rate")
	f.AuthFailure("missing")
	f.Created("local", "ok", 1)
	f.Destroyed("local", "ok", 1)
	f.Stepped("local", "boot", "ok", 1)
	f.Moved("local", sessions.Ready)
	f.Ended("local", sessions.Timeout, 1)
	f.Request("proxmox", "GET nodes", "ok", 1)
	f.stuck = []sessions.Stuck{{Backend: "local", Class: "failed"}}
	f.load = []sessions.Load{{Backend: "local"}}
	f.Claimed("small", "warm")
	f.pooled("sb-2", "small")
	return f.metrics()
}

// The document says of every metric what it says of itself when it is scraped.
func TestReferenceOfMetrics(t *testing.T) {
	body := everything(t)
	reference.Keep(t, "../..", "metrics.md", "metrics", families(body))
	for _, library := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(body, "\n"+library+" ") {
			t.Errorf("there is no %s", library)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("names: %v %v", problems, err)
	}
}

// families is a table of what a scrape has, without what libraries measure of a
// process.
func families(body string) string {
	table := reference.Head("metric", "type", "labels", "meaning")
	for _, m := range regexp.MustCompile(`(?m)^# HELP (agentlab_\w+) (.+)\n# TYPE \w+ (\w+)$`).FindAllStringSubmatch(body, -1) {
		sample := regexp.MustCompile(`(?m)^` + m[1] + `(?:_count)?(?:\{(.*)\})? `).FindStringSubmatch(body)
		var labels []string
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(sample[1], -1) {
			labels = append(labels, "`"+label[1]+"`")
		}
		table += reference.Row("`"+m[1]+"`", m[3], strings.Join(labels, ", "), m[2])
	}
	return table
}

// Scrapes that take long don't pile up.
func TestFewScrapesAtATime(t *testing.T) {
	const most = 4
	asked, release := make(chan bool, 2*most), make(chan bool)
	f := start(t, func(context.Context) (sessions.Store, error) { asked <- true; <-release; return nil, context.Canceled })
	ended := make(chan error, most)
	for range most {
		go func() {
			res, err := http.Get(f.url + "/metrics")
			if err == nil {
				err = res.Body.Close()
			}
			ended <- err
		}()
	}
	for range most {
		<-asked
	}
	status, body := f.get("/metrics")
	close(release)
	if status != http.StatusServiceUnavailable {
		t.Errorf("one more was answered %d %s", status, grep(body, "agentlab_"))
	}
	for range most {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
