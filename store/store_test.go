package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// open opens a store in a new directory, and closes it with the test.
func open(t *testing.T) (*store.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state?#%20 dir", "agentlab.db") // a name that a careless DSN breaks on
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	return reopen(t, path), path
}

func reopen(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func sandbox(id string) sessions.Sandbox {
	return sessions.Sandbox{
		ID: id, Owner: "local:1", Profile: "p", Backend: "local", State: sessions.Requested, Created: noon,
		End: noon.Add(time.Hour), MaxEnd: noon.Add(2 * time.Hour), Cores: 1, MemoryMB: 100, DiskMB: 10, Network: "none",
	}
}

func at(d time.Duration) sessions.Change { return sessions.Change{At: noon.Add(d)} }

// add adds a sandbox and moves it through states.
func add(t *testing.T, db *store.DB, sb sessions.Sandbox, states ...sessions.State) {
	t.Helper()
	sb, existing, err := db.Add(t.Context(), sb, sessions.Quota{}, at(0))
	if err != nil || existing {
		t.Fatalf("Add(%s): existing %v, error %v", sb.ID, existing, err)
	}
	for i, s := range states {
		if sb, err = db.Move(t.Context(), sb.ID, s, at(time.Duration(i+1)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

// events reads the events of a sandbox past the store, as "what FROM TO detail".
func events(t *testing.T, path, id string) []string {
	t.Helper()
	rows, err := raw(t, path).QueryContext(t.Context(), "SELECT what, from_state, to_state, detail FROM events WHERE sandbox = ? ORDER BY seq", id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var what, from, to, detail string
		if err := rows.Scan(&what, &from, &to, &detail); err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.Join([]string{what, from, to, detail}, " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// raw opens the file past the store.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db := store.Pool(path)
	t.Cleanup(func() { db.Close() })
	return db
}

// A machine to be is recorded while it is being made, and not before or after.
func TestIntend(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"))
	want := func(ok bool) {
		t.Helper()
		if err := db.Intend(t.Context(), "sb-1", "vm-1"); ok != (err == nil) || !ok && !errors.Is(err, sessions.ErrConflict) {
			t.Errorf("Intend: %v, want it to be taken: %v", err, ok)
		}
	}
	want(false)
	for _, to := range []sessions.State{sessions.Provisioning, sessions.Booting, sessions.Destroying} {
		if _, err := db.Move(t.Context(), "sb-1", to, at(time.Minute)); err != nil {
			t.Fatal(err)
		}
		want(to != sessions.Destroying)
	}
	if sb, err := db.Sandbox(t.Context(), "sb-1"); err != nil || sb.Handle != "vm-1" {
		t.Errorf("recorded %+v, %v", sb, err)
	}
	if err := db.Intend(t.Context(), "sb-2", "vm-1"); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("Intend without a record: %v", err)
	}
}

func TestRecordSurvivesReopening(t *testing.T) {
	db, path := open(t)
	want := sandbox("sb-1")
	want.Name = "a"
	add(t, db, want)
	machine := provisioner.Machine{Ref: provisioner.Ref{Handle: "h"}, IP: "10.0.0.1", Home: "/workspace", OS: "Debian"}
	for _, to := range []sessions.State{sessions.Provisioning, sessions.Booting, sessions.Ready} {
		ch := at(time.Minute)
		if to == sessions.Booting {
			ch.Machine = &machine
		}
		if _, err := db.Move(t.Context(), "sb-1", to, ch); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := reopen(t, path).Sandbox(t.Context(), "sb-1")
	if err != nil {
		t.Fatal(err)
	}
	want.State, want.Begun, want.Ready = sessions.Ready, noon.Add(time.Minute), noon.Add(time.Minute)
	want.Handle, want.IP, want.Home, want.OS = "h", "10.0.0.1", "/workspace", "Debian"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	want1 := []string{"create  REQUESTED ", "state REQUESTED PROVISIONING ", "state PROVISIONING BOOTING ", "state BOOTING READY "}
	if diff := cmp.Diff(want1, events(t, path, "sb-1")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

var allStates = []sessions.State{
	sessions.Requested, sessions.Provisioning, sessions.Booting, sessions.Ready, sessions.Running, sessions.Stopping,
	sessions.Stopped, sessions.Starting, sessions.Suspended, sessions.Timeout, sessions.Failed, sessions.Destroying, sessions.Destroyed,
}

// The store must refuse every illegal move, and write no event of it.
func TestMoveOfEveryPair(t *testing.T) {
	db, path := open(t)
	for _, from := range allStates {
		for _, to := range allStates {
			id := fmt.Sprintf("sb-%s-%s", from, to)
			sb := sandbox(id)
			sb.State = from
			if !from.Live() {
				sb.Ended = noon
			}
			add(t, db, sb)
			_, err := db.Move(t.Context(), id, to, at(time.Second))
			if legal := from.CanMove(to); legal != (err == nil) || !legal && !errors.Is(err, sessions.ErrConflict) {
				t.Errorf("%s to %s: %v, legal %v", from, to, err, legal)
			}
			want, ended := from, sb.Ended
			if err == nil {
				want = to
			}
			if from.Live() && !want.Live() {
				ended = noon.Add(time.Second)
			}
			got, err := db.Sandbox(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if got.State != want || !got.Ended.Equal(ended) {
				t.Errorf("%s to %s: state %s, ended %v; want %s, %v", from, to, got.State, got.Ended, want, ended)
			}
			if n := len(events(t, path, id)); (n == 2) != from.CanMove(to) {
				t.Errorf("%s to %s: %d events", from, to, n)
			}
		}
	}
}

func TestMoveOfNothing(t *testing.T) {
	db, path := open(t)
	if _, err := db.Move(t.Context(), "sb-x", sessions.Failed, at(0)); !errors.Is(err, sessions.ErrNoRecord) {
		t.Errorf("Move: %v", err)
	}
	if _, err := db.Sandbox(t.Context(), "sb-x"); !errors.Is(err, sessions.ErrNoRecord) {
		t.Errorf("Sandbox: %v", err)
	}
	if got := events(t, path, "sb-x"); got != nil {
		t.Errorf("events %q", got)
	}
}

// Of many who make the same move at once, one succeeds.
func TestMoveIsCompareAndSwap(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-1"))
	var won int
	parallel(20, func(int) error {
		_, err := db.Move(t.Context(), "sb-1", sessions.Provisioning, at(0))
		return err
	}, func(err error) {
		if err == nil {
			won++
		} else if !errors.Is(err, sessions.ErrConflict) {
			t.Error(err)
		}
	})
	if won != 1 || len(events(t, path, "sb-1")) != 2 {
		t.Errorf("%d moves won, events %q", won, events(t, path, "sb-1"))
	}
}

// parallel runs f n times at once and hands the results over one by one.
func parallel(n int, f func(i int) error, each func(error)) {
	errs := make(chan error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs <- f(i) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		each(err)
	}
}

func TestQuotaHoldsAgainstConcurrentAdds(t *testing.T) {
	for name, tt := range map[string]struct {
		quota sessions.Quota
		want  int
	}{
		"count":  {sessions.Quota{Sandboxes: 3}, 3},
		"memory": {sessions.Quota{MemoryMB: 450}, 4},
		"both":   {sessions.Quota{Sandboxes: 7, MemoryMB: 200}, 2},
		"none":   {sessions.Quota{}, 12},
	} {
		t.Run(name, func(t *testing.T) {
			db, _ := open(t)
			other := sandbox("sb-other")
			other.Owner = "local:2"
			add(t, db, other)
			var added int
			parallel(12, func(i int) error {
				_, _, err := db.Add(t.Context(), sandbox(fmt.Sprintf("sb-%d", i)), tt.quota, at(0))
				return err
			}, func(err error) {
				if err == nil {
					added++
				} else if !errors.Is(err, sessions.ErrOverQuota) {
					t.Error(err)
				}
			})
			if added != tt.want {
				t.Errorf("%d added, want %d", added, tt.want)
			}
		})
	}
}

// What is being destroyed still takes memory, and counts.
func TestQuotaCountsUntilDestroyed(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"), sessions.Destroying)
	one := sessions.Quota{Sandboxes: 1}
	if _, _, err := db.Add(t.Context(), sandbox("sb-2"), one, at(0)); !errors.Is(err, sessions.ErrOverQuota) {
		t.Fatalf("Add while the first is being destroyed: %v", err)
	}
	if _, err := db.Move(t.Context(), "sb-1", sessions.Destroyed, at(0)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Add(t.Context(), sandbox("sb-2"), one, at(0)); err != nil {
		t.Error(err)
	}
	for owner, want := range map[string]int{"": 1, "local:1": 1, "local:2": 0} {
		if u, err := db.Usage(t.Context(), owner); err != nil || u.Sandboxes != want || u.MemoryMB != 100*want {
			t.Errorf("Usage(%q) = %+v, %v", owner, u, err)
		}
	}
}

func TestNameIsOfOneLiveSandboxAnOwner(t *testing.T) {
	db, _ := open(t)
	named := func(i int, owner string) sessions.Sandbox {
		sb := sandbox(fmt.Sprintf("sb-%s-%d", owner, i))
		sb.Name, sb.Owner = "web", owner
		return sb
	}
	ids := make(chan string, 20)
	parallel(20, func(i int) error {
		sb, _, err := db.Add(t.Context(), named(i, "a"), sessions.Quota{Sandboxes: 1}, at(0))
		ids <- sb.ID
		return err
	}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("one name gave %s and %s", first, id)
		}
	}
	if sb, existing, err := db.Add(t.Context(), named(99, "b"), sessions.Quota{}, at(0)); err != nil || existing || sb.Owner != "b" {
		t.Errorf("another owner, same name: %+v, existing %v, %v", sb, existing, err)
	}
	if _, err := db.Move(t.Context(), first, sessions.Failed, at(0)); err != nil {
		t.Fatal(err)
	}
	if sb, existing, err := db.Add(t.Context(), named(100, "a"), sessions.Quota{}, at(0)); err != nil || existing {
		t.Errorf("the name of an ended one is not free: %+v, %v", sb, err)
	}
}

func TestAddOfKnownID(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"))
	if _, _, err := db.Add(t.Context(), sandbox("sb-1"), sessions.Quota{}, at(0)); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("Add: %v", err)
	}
}

func TestSetEnd(t *testing.T) {
	db, path := open(t)
	add(t, db, sandbox("sb-live"))
	add(t, db, sandbox("sb-over"), sessions.Failed)
	for name, tt := range map[string]struct {
		id  string
		end time.Duration // from noon; the sandbox's is 1 h, at most 2 h
		now time.Duration
		err error
	}{
		"later":        {"sb-live", 90 * time.Minute, time.Minute, nil},
		"sooner":       {"sb-live", 30 * time.Minute, time.Minute, nil},
		"to-the-most":  {"sb-live", 2 * time.Hour, time.Minute, nil},
		"past-most":    {"sb-live", 2*time.Hour + 1, time.Minute, sessions.ErrConflict},
		"past-its-end": {"sb-live", 110 * time.Minute, 2 * time.Hour, sessions.ErrConflict},
		"ended":        {"sb-over", 90 * time.Minute, time.Minute, sessions.ErrConflict},
		"unknown":      {"sb-none", 90 * time.Minute, time.Minute, sessions.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(events(t, path, tt.id))
			sb, err := db.SetEnd(t.Context(), tt.id, noon.Add(tt.end), at(tt.now))
			if !errors.Is(err, tt.err) {
				t.Fatalf("SetEnd: %v, want %v", err, tt.err)
			}
			if err == nil && !sb.End.Equal(noon.Add(tt.end)) {
				t.Errorf("end is %v", sb.End)
			}
			if n := len(events(t, path, tt.id)) - before; (n == 1) != (err == nil) {
				t.Errorf("%d events", n)
			}
		})
	}
}

func TestList(t *testing.T) {
	db, _ := open(t)
	for i, id := range []string{"sb-a", "sb-b", "sb-c", "sb-d", "sb-e"} {
		sb := sandbox(id)
		sb.Created = noon.Add(time.Duration(i) * time.Second)
		sb.End = noon.Add(time.Hour - time.Duration(i)*time.Second)
		if id == "sb-b" {
			sb.Owner = "local:2"
		}
		if id == "sb-c" {
			sb.Backend = "proxmox"
		}
		if id >= "sb-d" {
			sb.Profile = id
		}
		add(t, db, sb)
	}
	add(t, db, sandbox("sb-x"), sessions.Timeout)
	add(t, db, sandbox("sb-y"), sessions.Failed, sessions.Destroyed)
	for name, tt := range map[string]struct {
		q    sessions.Query
		want string
	}{
		"all":     {sessions.Query{}, "sb-a sb-b sb-c sb-d sb-e"},
		"owner":   {sessions.Query{Owner: "local:2"}, "sb-b"},
		"backend": {sessions.Query{Backend: "proxmox"}, "sb-c"},
		"profile": {sessions.Query{Profile: []string{"sb-e", "none", "sb-d"}}, "sb-d sb-e"},
		"ending":  {sessions.Query{Backend: "local", Ending: true}, "sb-a sb-x sb-b sb-d sb-e"},
		"by-end":  {sessions.Query{ByEnd: true, Limit: 2}, "sb-e sb-d"},
		"after":   {sessions.Query{Owner: "local:1", After: sessions.Mark{Created: noon.Add(2 * time.Second), ID: "sb-c"}}, "sb-d sb-e"},
		"between": {sessions.Query{After: sessions.Mark{Created: noon.Add(2 * time.Second), ID: "sb-b2"}, Limit: 1}, "sb-c"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := db.List(t.Context(), tt.q)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, sb := range list {
				ids = append(ids, sb.ID)
			}
			if diff := cmp.Diff(tt.want, strings.Join(ids, " ")); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
		})
	}
}

// Each query of the loops and of every call must go by an index, or it grows
// with the sandboxes of everybody.
func TestQueriesUseAnIndex(t *testing.T) {
	_, path := open(t)
	for where, want := range map[string]string{
		"id = 'x'": "sqlite_autoindex_sandboxes_1",
		"state <> 'DESTROYED' AND ended_at = 0 AND owner = 'x' ORDER BY created_at, id":                                           "sandboxes_owner",
		"ended_at = 0 AND state <> 'DESTROYED' AND owner = 'x' AND (created_at, id) > (1, 'y') ORDER BY created_at, id LIMIT 101": "sandboxes_owner (owner=? AND created_at>?)",
		"state <> 'DESTROYED' AND backend = 'x' ORDER BY created_at, id":                                                          "sandboxes_backend",
		"ended_at = 0 AND state <> 'DESTROYED' ORDER BY ends_at LIMIT 64":                                                         "sandboxes_end",
		"owner = 'x' AND state <> 'DESTROYED' AND state = 'READY' AND recipe = 'y'":                                               "sandboxes_owner",
		"owner = 'x' AND name = 'y' AND name <> '' AND ended_at = 0":                                                              "sandboxes_name",
	} {
		var id, parent, unused int
		var detail string
		row := raw(t, path).QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN SELECT * FROM sandboxes WHERE "+where)
		if err := row.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(detail, want) {
			t.Errorf("%s: %s, want index %s", where, detail, want)
		}
	}
}

func TestPrune(t *testing.T) {
	db, path := open(t)
	old := noon.Add(-time.Hour)
	for i := range 5 {
		sb := sandbox(fmt.Sprintf("sb-%d", i))
		add(t, db, sb, sessions.Destroying, sessions.Destroyed)
		if err := db.Log(t.Context(), sessions.Event{At: noon.Add(time.Duration(i) * time.Hour), Sandbox: "log", What: "exec"}); err != nil {
			t.Fatal(err)
		}
	}
	add(t, db, sandbox("sb-live"))
	add(t, db, sandbox("sb-ending"), sessions.Destroying)
	if more, err := db.Prune(t.Context(), old, 1000); more || err != nil {
		t.Fatalf("Prune: more %v, %v", more, err)
	}
	if n := len(events(t, path, "log")); n != 5 {
		t.Fatalf("%d events left of 5 that are young", n)
	}
	if _, err := db.Prune(t.Context(), noon.Add(2*time.Hour), 1000); err != nil {
		t.Fatal(err)
	}
	if got := len(events(t, path, "log")); got != 3 {
		t.Errorf("%d events left, want those of the last 3 hours", got)
	}
	for id, want := range map[string]error{"sb-0": sessions.ErrNoRecord, "sb-4": sessions.ErrNoRecord, "sb-live": nil, "sb-ending": nil} {
		if _, err := db.Sandbox(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
	if _, err := db.Prune(t.Context(), old, 1); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := raw(t, path).QueryRowContext(t.Context(), "SELECT count(*) FROM events").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d events left, want 1; %v", n, err)
	}
}

// Who ends a sandbox for its time must not win over a later end that its owner
// has been given since.
func TestMoveOfWhatIsDue(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"), sessions.Provisioning, sessions.Booting, sessions.Ready)
	due := func(d time.Duration) sessions.Change {
		ch := at(d)
		ch.Due = true
		return ch
	}
	if _, err := db.SetEnd(t.Context(), "sb-1", noon.Add(90*time.Minute), at(59*time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{time.Hour, 90*time.Minute - 1} {
		if _, err := db.Move(t.Context(), "sb-1", sessions.Timeout, due(d)); !errors.Is(err, sessions.ErrConflict) {
			t.Errorf("ended after %v: %v", d, err)
		}
	}
	if sb, err := db.Move(t.Context(), "sb-1", sessions.Timeout, due(90*time.Minute)); err != nil || sb.State != sessions.Timeout {
		t.Errorf("at its end: %s, %v", sb.State, err)
	}
}
