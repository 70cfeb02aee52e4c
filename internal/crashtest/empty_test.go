package crashtest

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// TestEmptyState takes away all that the daemon keeps but its key, or the key.
func TestEmptyState(t *testing.T) {
	for name, newWorld := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, &tally{}, withHTTP(newWorld))
			s.world.plant(t)
			s.haveSandbox(t)
			s.haveAnothers(t)
			if err := extend(7200)(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			before := s.records(t)
			t.Run("no-key", s.withoutKey)
			t.Run("another-key", s.withAnotherKey)
			t.Run("start", func(t *testing.T) {
				s.stop(t)
				s.empty(t)
				s.start(t)
				s.same(t, before)
			})
			t.Run("rebuild", func(t *testing.T) {
				s.stop(t)
				s.empty(t)
				if _, err := s.agentlab(t.Context(), "store", "rebuild"); err != nil {
					t.Fatal(err)
				}
				if records := s.records(t); len(records) != len(before) {
					t.Errorf("rebuilt: %v", records)
				}
				s.start(t)
				s.same(t, before)
			})
			s.world.take(t) // nobody can destroy the other's, whose token is lost
			s.id, s.process = "", ""
			s.vanish(t)
		})
	}
}

// haveAnothers makes a sandbox of somebody else's, the holder of a token.
func (s *site) haveAnothers(t *testing.T) {
	t.Helper()
	if err := createToken(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	c, err := stage.ConnectHTTP(t.Context(), s.web(t), s.token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Call(t.Context(), "create_sandbox", stage.Args{"name": "one", "wait_seconds": 55}, nil); err != nil {
		t.Fatal(err)
	}
}

// web is the URL that the daemon says it listens on.
func (s *site) web(t *testing.T) string {
	t.Helper()
	m := webAddress.FindStringSubmatch(s.daemon.said())
	if m == nil {
		t.Fatalf("the daemon does not say where it listens:\n%s", s.daemon.said())
	}
	return m[1]
}

// empty removes all that the daemon keeps, but its key and machines.
func (s *site) empty(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.state(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "instance.key" || e.Name() == s.world.name() { // where the local backend has them
			continue
		}
		if err := os.RemoveAll(s.state(e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// same looks whether all sandboxes are as they were, for their owners and inside.
func (s *site) same(t *testing.T, before []sessions.Sandbox) {
	t.Helper()
	s.settle(t)
	byID := cmpopts.SortSlices(func(a, b sessions.Sandbox) int { return strings.Compare(a.ID, b.ID) })
	look := cmpopts.IgnoreFields(sessions.Sandbox{}, "State", "Begun", "Ready", "IP") // which are found out anew
	if diff := cmp.Diff(before, s.records(t), byID, look); diff != "" {
		t.Errorf("sandboxes (-before +after):\n%s", diff)
	}
	s.intact(t)
	if ids := s.list(t); !slices.Equal(ids, []string{s.id}) {
		t.Errorf("the user's are %v, want %s", ids, s.id)
	}
	s.untouched(t)
}

// withoutKey starts a daemon that finds its database but not its key, whole.
func (s *site) withoutKey(t *testing.T) {
	key := s.state("instance.key")
	whole, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	machines := s.world.machines(t)
	for what, spoil := range map[string]func() error{
		"instance key " + key + " is gone": func() error { return os.Remove(key) },
		"want a file of 32 bytes, got 0":   func() error { return os.WriteFile(key, nil, 0o600) },
		"want a file of 32 bytes, got 31":  func() error { return os.WriteFile(key, whole[1:], 0o600) },
		"and the instance key is that of ": func() error { return os.WriteFile(key, anotherKey(), 0o600) },
	} {
		s.stop(t)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		spoilt, _ := os.ReadFile(key) // or there is none
		s.launch(t)
		s.await(t, "the daemon to refuse", func() (bool, string) { return strings.Contains(s.daemon.said(), what), what })
		s.stop(t)
		if now, _ := os.ReadFile(key); !bytes.Equal(now, spoilt) {
			t.Errorf("%s: the key was written", what)
		}
		if err := os.WriteFile(key, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if now := s.world.machines(t); !slices.Equal(now, machines) {
		t.Errorf("machines were %v, are %v", machines, now)
	}
	s.untouched(t)
	s.start(t)
	s.settle(t)
	s.intact(t)
}

func anotherKey() []byte { return bytes.Repeat([]byte{9}, provisioner.KeySize) }

// lookAgain waits until the daemon has compared its records with the machines
// twice more, which is when it acts on what it was in doubt of.
func (s *site) lookAgain(t *testing.T) {
	t.Helper()
	if err := s.points.Record(); err != nil {
		t.Fatal(err)
	}
	s.await(t, "two more looks", func() (bool, string) {
		passed, err := s.points.Passed()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(passed, s.world.name()+" list after #3"), fmt.Sprint(passed)
	})
	if err := s.points.Disarm(); err != nil {
		t.Fatal(err)
	}
}

// withAnotherKey starts a daemon that has no database, and a key that no machine
// was made with.
func (s *site) withAnotherKey(t *testing.T) {
	key := s.state("instance.key")
	whole, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	machines := s.world.machines(t)
	s.stop(t)
	s.empty(t)
	if err := os.WriteFile(key, anotherKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.lookAgain(t)
	if records := s.records(t); len(records) > 0 {
		t.Errorf("adopted: %v", records)
	}
	if now := s.world.machines(t); !slices.Equal(now, machines) {
		t.Errorf("machines were %v, are %v", machines, now)
	}
	for _, mach := range machines {
		name := strings.Fields(strings.TrimPrefix(mach, "VM "))[0]
		told := regexp.MustCompile(`level=WARN msg="left alone: .*\b` + name + `\b`)
		if !told.MatchString(s.daemon.said()) {
			t.Errorf("the daemon does not say that it sees %s:\n%s", name, s.daemon.said())
		}
	}
	s.untouched(t)
	s.stop(t)
	s.empty(t)
	if err := os.WriteFile(key, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.settle(t)
	s.intact(t)
}
