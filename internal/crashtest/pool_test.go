package crashtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// pools are the operations on a pool of one. Each includes that it is filled anew.
func pools() []operation {
	return []operation{
		{name: "claim", before: then((*site).havePool), do: create, until: then((*site).filled), after: then((*site).claimAgain), keeps: true},
		{name: "drain", before: then((*site).outdate), until: then((*site).filled), after: then((*site).filled), keeps: true, brief: true},
		{name: "trust", before: then((*site).restored), until: then((*site).filled), after: then((*site).stillTheirs), keeps: true, only: []string{"store trust"}},
	}
}

// restored leaves a database from before a member of the pool was claimed.
func (s *site) restored(t *testing.T) {
	t.Helper()
	s.havePool(t)
	s.stop(t)
	saved := s.state("saved.db")
	s.copyStore(t, s.state("agentlab.db"), saved)
	s.start(t)
	if err := create(t.Context(), s); err != nil {
		t.Fatalf("%v\nthe daemon said:\n%s", err, s.daemon.said())
	}
	s.filled(t)
	s.stop(t)
	s.loseStore(t)
	s.copyStore(t, saved, s.state("agentlab.db"))
}

// copyStore copies a database that nobody has open.
func (s *site) copyStore(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		text, err := os.ReadFile(from + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err == nil {
			err = os.WriteFile(to+suffix, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stillTheirs asks for the sandbox that was claimed after the database was saved:
// it is the one it was.
func (s *site) stillTheirs(t *testing.T) {
	t.Helper()
	id := s.id
	s.claimAgain(t)
	if s.id != id {
		t.Errorf("sandbox %s was claimed, and by its name there is %s", id, s.id)
	}
}

// havePool leaves a pool that is full, and no sandbox.
func (s *site) havePool(t *testing.T) {
	t.Helper()
	for _, id := range s.list(t) {
		s.must(t, "destroy", stage.Args{"sandbox_id": id}, nil)
	}
	s.fill(t, 1)
	s.filled(t)
}

// outdate changes the profile, so that the members of its pool are to be drained
// by the next daemon.
func (s *site) outdate(t *testing.T) {
	t.Helper()
	s.havePool(t)
	s.stop(t)
	s.cores = 3 - s.cores
	s.writePool(t)
}

// fill has the daemon keep a pool of that size.
func (s *site) fill(t *testing.T, size int) {
	t.Helper()
	if s.pool == size {
		return
	}
	s.stop(t)
	s.pool, s.cores = size, 1
	s.writePool(t)
	s.start(t)
}

// writePool writes what the pool is to be at the end of the profile.
func (s *site) writePool(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, "config", "agentlab", "profiles", "default.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rest, _, _ := strings.Cut(string(text), "cores:")
	if err := s.AddProfile("default", fmt.Sprintf("%scores: %d\npool: {size: %d, max_age: %v}\n", rest, s.cores, s.pool, maxAge)); err != nil {
		t.Fatal(err)
	}
}

// maxAge is that of a member.
const maxAge = time.Hour

// filled waits until the pool is as it should be, and nothing else is left of it.
func (s *site) filled(t *testing.T) {
	t.Helper()
	s.begun(t)
	s.await(t, "a full pool", func() (bool, string) {
		ready, others := 0, 0
		records := s.records(t)
		for _, sb := range records {
			switch {
			case !sb.Pooled():
			case sb.State == sessions.Ready && sb.Cores == s.cores:
				ready++
			default:
				others++
			}
		}
		if ready+others > s.pool+1 {
			t.Errorf("a pool of %d has %d members: %v", s.pool, ready+others, records)
		}
		return ready == s.pool && others == 0, fmt.Sprint(records)
	})
	s.settle(t)
	s.rightful(t)
}

// rightful looks whether each machine says that it is whose the record says, and
// whether each member of the pool is to end in time.
func (s *site) rightful(t *testing.T) {
	t.Helper()
	for _, sb := range s.records(t) {
		papers := strings.ReplaceAll(s.world.papers(t, sb.ID), `\"`, `"`)
		if want := fmt.Sprintf(`"owner":%q`, sb.Owner); !strings.Contains(papers, want) {
			t.Errorf("the machine of %s does not say %s:\n%s", sb.ID, want, papers)
		}
		if sb.Pooled() && sb.End.Sub(sb.Created) != maxAge {
			t.Errorf("member %s of %v ends at %v", sb.ID, sb.Created, sb.End)
		}
	}
}

// claimAgain asks for the sandbox that was being claimed: there is one, of that
// name, it can be used, and it is nobody else's.
func (s *site) claimAgain(t *testing.T) {
	t.Helper()
	s.createAgain(t)
	s.filled(t)
}
