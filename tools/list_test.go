package tools_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
	"github.com/agentlab-mcp/agentlab/tools"
)

// listing has the tools over a store with n sandboxes of local:1.
func listing(t *testing.T, n int) (*store.DB, func(tool string, a args) tools.Result) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"), log)
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	profile := sessions.BuiltinProfiles()[0]
	profile.IdleTimeout = 10 * time.Minute
	m := &sessions.Manager{
		Store: db, Backends: map[string]provisioner.Provisioner{"local": away{&backend{}}},
		Profiles: []sessions.Profile{profile}, Log: log, DestroyTimeout: 100 * time.Millisecond,
	}
	now := time.Now().UTC()
	for i := range n {
		sb := sessions.Sandbox{
			ID: fmt.Sprintf("sb-%03d", i), Owner: "local:1", Profile: "default", Backend: "local", State: sessions.Ready,
			Created: now.Add(time.Duration(i/7) * time.Second), End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
		}
		_, _, err := db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now})
		check(t, err)
	}
	all := tools.All(func(context.Context) (*sessions.Manager, error) { return m, nil }, m.Profiles, log)
	return db, func(tool string, a args) tools.Result {
		raw, err := json.Marshal(a)
		check(t, err)
		for _, tl := range all {
			if tl.Name == tool {
				return tl.Call(as(t.Context(), "local:1"), raw)
			}
		}
		panic(tool)
	}
}

// away is a backend whose machines can't be removed.
type away struct{ *backend }

func (away) Destroy(context.Context, provisioner.Ref) error {
	return fmt.Errorf("node pve2 does not answer: %w", provisioner.ErrUnavailable)
}

// A long list comes in pages, that leave out and repeat nothing, also when what a
// page ended with is gone by the next.
func TestListInPages(t *testing.T) {
	const n = 250
	db, call := listing(t, n)
	var got []string
	a := args{}
	for pages := 1; ; pages++ {
		res := call("list_sandboxes", a)
		var out struct {
			Sandboxes []struct {
				ID   string `json:"sandbox_id"`
				Idle int    `json:"idle_timeout_seconds"`
			}
			Next string `json:"next_after"`
		}
		raw, err := json.Marshal(res.Structured)
		check(t, err)
		check(t, json.Unmarshal(raw, &out))
		for _, sb := range out.Sandboxes {
			if sb.Idle != 600 {
				t.Errorf("%s: idle timeout %d", sb.ID, sb.Idle)
			}
			got = append(got, sb.ID)
		}
		if out.Next == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		if want := "there are more: call list_sandboxes with after=" + out.Next; !strings.Contains(textOf(res), want) {
			t.Errorf("text of a page lacks %q", want)
		}
		_, err = db.Move(t.Context(), out.Next, sessions.Destroying, sessions.Change{At: time.Now()})
		check(t, err)
		a = args{"after": out.Next}
	}
	for i, id := range got {
		if id != fmt.Sprintf("sb-%03d", i) {
			t.Fatalf("number %d is %s", i, id)
		}
	}
	if len(got) != n {
		t.Errorf("%d sandboxes, want %d", len(got), n)
	}
	res := call("list_sandboxes", args{"after": "sb-nope"})
	if text := textOf(res); !res.IsError || !strings.Contains(text, `after is "sb-nope", allowed: what the answer before said to go on after`) {
		t.Errorf("unknown place: %s", text)
	}
}

// What has ended and can't be removed is listed, and why.
func TestListOfWhatIsNotRemoved(t *testing.T) {
	_, call := listing(t, 2)
	res := call("destroy", args{"sandbox_id": "sb-000"})
	if text := textOf(res); !res.IsError || !strings.Contains(text, "sandbox sb-000 is being destroyed, but node pve2 does not answer") {
		t.Errorf("destroy: %s", text)
	}
	text := textOf(call("list_sandboxes", args{}))
	if !strings.Contains(text, "1 sandbox\nsb-001 is ready until") || !strings.Contains(text, "or until nobody has used it for 600 s") ||
		!strings.Contains(text, "\nsb-000 has ended, but its machine is not removed yet: node pve2 does not answer; next try at ") {
		t.Errorf("list_sandboxes: %s", text)
	}
}
