package crashtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// site is an installation with a world in which its machines are.
type site struct {
	*stage.Stage
	points failpoint.Dir
	world  world
	daemon *daemon       // nil if none runs
	client *stage.Client // nil if none is connected
	tally  *tally

	usual []string // points that every start passes

	id      string // of the sandbox that the operation is about
	token   string // its text
	cat     string // id of the process that is fed
	process string // id of a process that counts in it
	counted int    // what it had counted up to when that was looked at last
	pool    int    // the size of the profile's, with which the daemon runs
	cores   int    // of the members of its pool
}

// world is where the machines of a site are, and what of others is there.
type world interface {
	name() string // of the backend
	// plant puts there what is another's, once the daemon has made its directories.
	plant(t *testing.T)
	// machines names those that are ours.
	machines(t *testing.T) []string
	// papers is what is written on the machine of a sandbox.
	papers(t *testing.T, id string) string
	// left names what there still is of machines, when none should be.
	left(t *testing.T) []string
	// touched names what was changed of what is another's.
	touched(t *testing.T) []string
	// slay kills the only machine behind our back.
	slay(t *testing.T)
	// take has all machines gone behind our back, or dead where that is the same.
	take(t *testing.T)
	// strip takes the papers from all machines, and bereft names these then.
	strip(t *testing.T)
	bereft() []string
	// stripped names the machines that have no papers, and are as strip left them.
	stripped(t *testing.T) []string
	// clear does what an operator does with them.
	clear(t *testing.T)
}

// newSite makes an installation whose default profile is of the backend that
// makes the world, and starts its daemon.
func newSite(t *testing.T, sum *tally, newWorld func(t *testing.T, st *stage.Stage) world) *site {
	t.Helper()
	st, err := stage.New("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	points := filepath.Join(st.Dir, "failpoints")
	if err := os.Mkdir(points, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &site{Stage: st, points: failpoint.Dir(points), tally: sum}
	t.Cleanup(func() {
		s.stop(t)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s.world = newWorld(t, st)
	s.start(t)
	return s
}

// state is a path below the installation's state directory.
func (s *site) state(name string) string { return filepath.Join(s.Dir, "state", "agentlab", name) }

// call calls a tool of the daemon that runs; what it answers goes to into.
func (s *site) call(ctx context.Context, tool string, args stage.Args, into any) (string, error) {
	if s.client == nil {
		c, err := s.Connect(context.WithoutCancel(ctx))
		if err != nil {
			return "", err
		}
		s.client = c
	}
	return s.client.Call(ctx, tool, args, into)
}

// must is call of what can't fail.
func (s *site) must(t *testing.T, tool string, args stage.Args, into any) string {
	t.Helper()
	text, err := s.call(t.Context(), tool, args, into)
	if err != nil {
		t.Fatalf("%v\nthe daemon said:\n%s", err, s.daemon.said())
	}
	return text
}

// hangUp closes the client, whose daemon may be gone.
func (s *site) hangUp() {
	if s.client != nil {
		_ = s.client.Close()
		s.client = nil
	}
}

// agentlab runs the command line and returns what it prints.
func (s *site) agentlab(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Bin("agentlab"), args...)
	cmd.Env = s.Env
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("agentlab %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out), nil
}

// records are those that have not come to their end.
func (s *site) records(t *testing.T) []sessions.Sandbox {
	t.Helper()
	db, err := store.Open(t.Context(), s.state("agentlab.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	list, err := db.List(t.Context(), sessions.Query{Ending: true})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// settle waits until every record is of a sandbox that can be used, or has
// ended, and each machine has a record.
func (s *site) settle(t *testing.T) {
	t.Helper()
	s.await(t, "records and machines that agree", func() (bool, string) {
		records, machines := s.records(t), s.world.machines(t)
		ok := len(records) == len(machines)
		var is []string
		for _, sb := range records {
			is = append(is, fmt.Sprintf("%s is %s (%s)", sb.ID, sb.State, sb.Reason))
			ok = ok && (sb.State == sessions.Ready || sb.State == sessions.Running)
		}
		return ok, fmt.Sprintf("records: %s\nmachines: %s", strings.Join(is, "; "), strings.Join(machines, "; "))
	})
}

// vanish waits until there is neither record nor machine, nor anything else.
// What stays is counted, and not waited for again.
func (s *site) vanish(t *testing.T) {
	t.Helper()
	s.await(t, "all records to end", func() (bool, string) {
		records := s.records(t)
		return len(records) == 0, fmt.Sprint(records)
	})
	left := s.world.left(t)
	s.tally.leaks.Add(int64(len(left)))
	if len(left) > 0 {
		t.Errorf("left behind, of no record:\n%s\nthe daemon said:\n%s", strings.Join(left, "\n"), s.daemon.said())
	}
	s.untouched(t)
}

// untouched looks whether something of others was changed.
func (s *site) untouched(t *testing.T) {
	t.Helper()
	touched := s.world.touched(t)
	s.tally.touches.Add(int64(len(touched)))
	if len(touched) > 0 {
		t.Errorf("touched, though another's:\n%s", strings.Join(touched, "\n"))
	}
}

// clean destroys all sandboxes and looks whether they are gone.
func (s *site) clean(t *testing.T) {
	t.Helper()
	for _, id := range s.list(t) {
		s.must(t, "destroy", stage.Args{"sandbox_id": id}, nil)
	}
	s.id, s.process = "", ""
	s.vanish(t)
}

// list returns the ids of the sandboxes that the user sees.
func (s *site) list(t *testing.T) []string {
	t.Helper()
	var out struct {
		Sandboxes []struct {
			ID string `json:"sandbox_id"`
		}
	}
	s.must(t, "list_sandboxes", nil, &out)
	var ids []string
	for _, sb := range out.Sandboxes {
		ids = append(ids, sb.ID)
	}
	slices.Sort(ids)
	return ids
}
