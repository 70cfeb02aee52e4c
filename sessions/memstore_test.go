package sessions_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// memStore keeps its word as the store does, a hundred times as fast: what the
// life of a sandbox needs of it. TestMemStoreIsTheStore holds it to that.
type memStore struct {
	sessions.Store // nil: the rest is not asked for

	mu   sync.Mutex
	rows map[string]sessions.Sandbox
}

func (s *memStore) Add(_ context.Context, sb sessions.Sandbox, _ sessions.Quota, _ sessions.Change) (sessions.Sandbox, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[string]sessions.Sandbox{}
	}
	if _, taken := s.rows[sb.ID]; taken {
		return sb, false, sessions.ErrConflict
	}
	s.rows[sb.ID] = sb
	return sb, false, nil
}

func (s *memStore) Sandbox(_ context.Context, id string) (sessions.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, ok := s.rows[id]
	if !ok {
		return sb, sessions.ErrNoRecord
	}
	return sb, nil
}

func (s *memStore) List(_ context.Context, q sessions.Query) ([]sessions.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []sessions.Sandbox
	for _, sb := range s.rows {
		if sb.State != sessions.Destroyed && (q.Ending || sb.State.Live()) && (q.Backend == "" || sb.Backend == q.Backend) &&
			(len(q.Profile) == 0 || slices.Contains(q.Profile, sb.Profile)) {
			list = append(list, sb)
		}
	}
	slices.SortFunc(list, func(a, b sessions.Sandbox) int {
		if q.ByEnd {
			return a.End.Compare(b.End)
		}
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	if q.Limit > 0 {
		list = list[:min(q.Limit, len(list))]
	}
	return list, nil
}

func (s *memStore) Move(_ context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, ok := s.rows[id]
	switch {
	case !ok:
		return sb, sessions.ErrNoRecord
	case !sb.State.CanMove(to), ch.Due && ch.At.Before(sb.End):
		return sb, sessions.ErrConflict
	}
	if sb.State.Live() && !to.Live() {
		sb.Ended = ch.At
	}
	sb.State, sb.Reason = to, cmp.Or(ch.Reason, sb.Reason)
	s.rows[id] = sb
	return sb, nil
}

func (s *memStore) SetEnd(_ context.Context, id string, end time.Time, ch sessions.Change) (sessions.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, ok := s.rows[id]
	if !ok || !sb.State.Live() || !sb.End.After(ch.At) || end.After(sb.MaxEnd) {
		return sessions.Sandbox{}, sessions.ErrConflict
	}
	sb.End = end
	s.rows[id] = sb
	return sb, nil
}

// The same random changes of both must give the same records and errors.
func TestMemStoreIsTheStore(t *testing.T) {
	real := newLab(t, &world{}, filepath.Join(t.TempDir(), "db"))
	defer real.stop()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	states := []sessions.State{sessions.Ready, sessions.Running, sessions.Timeout, sessions.Destroying, sessions.Destroyed}
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	stores := []sessions.Store{real.db, &memStore{}}
	for i := range 1000 {
		id := fmt.Sprint("sb-", r.IntN(i/20+1))
		at, end, to := noon.Add(time.Duration(r.IntN(6))*time.Minute), noon.Add(time.Duration(r.IntN(6))*time.Minute+time.Duration(i)), states[r.IntN(len(states))]
		due, op, q := r.IntN(2) == 0, r.IntN(5), sessions.Query{Ending: r.IntN(2) == 0, ByEnd: true, Limit: r.IntN(3)}
		var got [2]any
		for n, s := range stores {
			var sb sessions.Sandbox
			var list []sessions.Sandbox
			var err error
			switch op {
			case 0:
				sb = sessions.Sandbox{ID: id, Backend: "mem", Owner: "alice", State: sessions.Ready, Created: at, End: end, MaxEnd: noon.Add(4 * time.Minute)}
				sb, _, err = s.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: at})
			case 1:
				sb, err = s.Sandbox(t.Context(), id)
			case 2:
				list, err = s.List(t.Context(), q)
			case 3:
				sb, err = s.Move(t.Context(), id, to, sessions.Change{At: at, Reason: "why", Due: due})
			case 4:
				sb, err = s.SetEnd(t.Context(), id, end, sessions.Change{At: at})
			}
			if err != nil {
				sb = sessions.Sandbox{}
			}
			got[n] = []any{sb, list, errors.Is(err, sessions.ErrConflict), errors.Is(err, sessions.ErrNoRecord), err == nil}
		}
		if diff := gocmp.Diff(got[0], got[1]); diff != "" {
			t.Fatalf("change %d, kind %d of %s (-store +mem):\n%s", i, op, id, diff)
		}
	}
}
