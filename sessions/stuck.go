package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Stuck is a sandbox that has ended and whose machine could not be removed so
// far. It is kept in memory only: after a restart the next try tells.
type Stuck struct {
	ID      string
	Name    string
	Owner   string
	Backend string
	Class   string    // of few: "unavailable", "no_answer", "not_ours", "store" or "failed"
	Problem string    // for its owner; safe to show
	Since   time.Time // when it failed first
	Tries   int       // that have failed
	Next    time.Time // when it is tried again; zero: when its machine is seen again as ours
}

// String says what keeps the machine, and when it is tried again.
func (s Stuck) String() string {
	if s.Next.IsZero() {
		return s.Problem
	}
	return fmt.Sprintf("%s; next try at %s", s.Problem, s.Next.UTC().Truncate(time.Second).Format(time.RFC3339))
}

// AllStuck returns what is stuck of all owners, for who watches the server.
func (m *Manager) AllStuck() []Stuck {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.stuck))
}

// Stuck returns the caller's sandboxes that have ended and whose machine could
// not be removed so far, the longest stuck first: they count against its quota.
func (m *Manager) Stuck(ctx context.Context) ([]Stuck, error) {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(m.AllStuck(), func(s Stuck) bool { return s.Owner != who.Name })
	slices.SortFunc(all, byAge)
	return all, nil
}

// byAge puts the longest stuck first.
func byAge(a, b Stuck) int {
	return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
}

// failed notes that a machine could not be removed. The log has a line for the
// first time, and for each time that another thing is the matter.
func (m *Manager) failed(sb Sandbox, err error, next time.Time) {
	m.mu.Lock()
	s := m.stuck[sb.ID]
	before := s.Class
	if s.ID == "" {
		s = Stuck{ID: sb.ID, Name: sb.Name, Owner: sb.Owner, Backend: sb.Backend, Since: m.now()}
	}
	s.Class, s.Problem = obstacle(err)
	s.Next = next
	s.Tries++
	m.stuck[sb.ID] = s
	m.mu.Unlock()
	if s.Class != before {
		m.Log.Warn("machine can't be removed", "id", sb.ID, "backend", sb.Backend, "why", s.Class, "tries", s.Tries, "err", err)
	}
}

// freed notes that a machine is gone.
func (m *Manager) freed(id string) {
	m.mu.Lock()
	s, was := m.stuck[id]
	delete(m.stuck, id)
	m.mu.Unlock()
	if was {
		m.Log.Info("machine that could not be removed is gone", "id", id, "backend", s.Backend, "after", m.now().Sub(s.Since), "tries", s.Tries)
	}
}

// obstacle says for its owner what keeps a sandbox from being destroyed.
func (m *Manager) obstacle(id string) string {
	m.mu.Lock()
	s, stuck := m.stuck[id]
	m.mu.Unlock()
	if !stuck {
		return fmt.Sprintf("its backend has not answered within %v", m.DestroyTimeout)
	}
	left := s.Next.Sub(m.now())
	switch {
	case s.Next.IsZero():
		return s.Problem
	case left <= 0:
		return s.Problem + "; it is being tried again"
	}
	return fmt.Sprintf("%s; next try in %.0f s", s.Problem, math.Ceil(left.Seconds()))
}

// obstacle returns the class of an error of removing a machine, and what its
// owner may know of it.
func obstacle(err error) (class, problem string) {
	switch {
	case errors.Is(err, provisioner.ErrNotOurs):
		return "not_ours", "its machine does not bear this server's papers and is left alone; the operator must look at it"
	case errors.Is(err, ErrStoreUnavailable):
		return "store", "the server can't keep its records now"
	case errors.Is(err, context.DeadlineExceeded):
		return "no_answer", "its backend does not answer"
	case errors.Is(err, provisioner.ErrUnavailable):
		return "unavailable", quoted(unavailable(err), 300)
	}
	return "failed", "its backend fails to do it; the server's log says why"
}

// unavailable is the text of an error for who is told elsewhere that something is
// unavailable.
func unavailable(err error) string {
	text := err.Error()
	for _, known := range []error{provisioner.ErrUnavailable, provisioner.ErrInvalid, provisioner.ErrExhausted} {
		text = strings.TrimSuffix(text, ": "+known.Error())
	}
	return text
}
