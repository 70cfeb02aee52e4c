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

func (s *memStore) Add(_ context.Context, sb sessions.Sandbox, quota sessions.Quota, _ sessions.Change) (sessions.Sandbox, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sb, false, s.add(sb, quota)
}

func (s *memStore) add(sb sessions.Sandbox, quota sessions.Quota) error {
	if s.rows == nil {
		s.rows = map[string]sessions.Sandbox{}
	}
	if quota.Sandboxes > 0 && s.count(sb.Owner) >= quota.Sandboxes {
		return sessions.ErrOverQuota
	}
	if _, taken := s.rows[sb.ID]; taken {
		return sessions.ErrConflict
	}
	s.rows[sb.ID] = sb
	return nil
}

func (s *memStore) count(owner string) (n int) {
	for _, sb := range s.rows {
		if sb.Owner == owner && sb.State != sessions.Destroyed {
			n++
		}
	}
	return n
}

func (s *memStore) Claim(_ context.Context, sb sessions.Sandbox, quota sessions.Quota, fit sessions.Fit, _ sessions.Change) (sessions.Sandbox, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if quota.Sandboxes > 0 && s.count(sb.Owner) >= quota.Sandboxes {
		return sb, false, sessions.ErrOverQuota
	}
	var oldest *sessions.Sandbox
	for _, m := range s.rows {
		if m.Owner == sessions.PoolOwner(sb.Profile) && m.State == sessions.Ready && m.Recipe == sb.Recipe && m.Recipe != "" &&
			m.End.After(fit.EndsAfter) && !slices.Contains(fit.Except, m.ID) && (oldest == nil || older(m, *oldest) < 0) {
			oldest = &m
		}
	}
	if oldest == nil {
		sb.Recipe = ""
		return sb, false, s.add(sb, quota)
	}
	kept := *oldest
	kept.Owner, kept.Name, kept.Created, kept.Begun, kept.End, kept.MaxEnd = sb.Owner, sb.Name, sb.Created, sb.Created, sb.End, sb.MaxEnd
	kept.State, kept.Ready, kept.Recipe, kept.Keys = sessions.Booting, time.Time{}, "", kept.Keys+1
	s.rows[kept.ID] = kept
	return kept, false, nil
}

func (s *memStore) Trust(_ context.Context, sb sessions.Sandbox, _ sessions.Change) (sessions.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.rows[sb.ID]
	if !ok {
		return kept, sessions.ErrNoRecord
	}
	if !kept.State.Live() || kept.Keys >= sb.Keys {
		return kept, sessions.ErrConflict
	}
	kept.Owner, kept.Name, kept.Created, kept.Begun, kept.Ready, kept.End, kept.MaxEnd = sb.Owner, sb.Name, sb.Created, sb.Begun, sb.Ready, sb.End, sb.MaxEnd
	kept.State, kept.Handle, kept.Recipe, kept.Keys = sb.State, sb.Handle, "", sb.Keys
	kept.Home, kept.OS, kept.IP = cmp.Or(sb.Home, kept.Home), cmp.Or(sb.OS, kept.OS), cmp.Or(sb.IP, kept.IP)
	s.rows[sb.ID] = kept
	return kept, nil
}

// older is the order of those that were made one after the other.
func older(a, b sessions.Sandbox) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

func (s *memStore) Intend(_ context.Context, id, handle string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.rows[id]
	if sb.State != sessions.Provisioning && sb.State != sessions.Booting {
		return sessions.ErrConflict
	}
	sb.Handle = handle
	s.rows[id] = sb
	return nil
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
			(len(q.Profile) == 0 || slices.Contains(q.Profile, sb.Profile)) && (q.Owner == "" || q.Owner == sb.Owner) {
			list = append(list, sb)
		}
	}
	slices.SortFunc(list, func(a, b sessions.Sandbox) int {
		if q.ByEnd {
			return a.End.Compare(b.End)
		}
		return older(a, b)
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
	case !sb.State.CanMove(to), ch.Due && ch.At.Before(sb.End), ch.Owner != "" && ch.Owner != sb.Owner:
		return sb, sessions.ErrConflict
	}
	if sb.State.Live() && !to.Live() {
		sb.Ended = ch.At
	}
	if to == sessions.Provisioning {
		sb.Begun = ch.At
	}
	if to == sessions.Ready && sb.Ready.IsZero() {
		sb.Ready = ch.At
	}
	if ch.Reason != "" || to == sessions.Ready {
		sb.Reason = ch.Reason
	}
	if m := ch.Machine; m != nil {
		sb.Handle, sb.IP, sb.Home, sb.OS = m.Handle, m.IP, m.Home, m.OS
	}
	sb.State = to
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
	owners := []string{"alice", "bob", sessions.PoolOwner("small"), sessions.PoolOwner("small")}
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	stores := []sessions.Store{real.db, &memStore{}}
	for i := range 1000 {
		id := fmt.Sprint("sb-", r.IntN(i/20+1))
		at, end, to := noon.Add(time.Duration(r.IntN(6))*time.Minute), noon.Add(time.Duration(r.IntN(6))*time.Minute+time.Duration(i)), states[r.IntN(len(states))]
		due, op, q := r.IntN(2) == 0, r.IntN(8), sessions.Query{Ending: r.IntN(2) == 0, ByEnd: true, Limit: r.IntN(3)}
		owner, quota := owners[r.IntN(len(owners))], sessions.Quota{Sandboxes: r.IntN(20)}
		var got [2]any
		for n, s := range stores {
			var sb sessions.Sandbox
			var list []sessions.Sandbox
			var err error
			switch op {
			case 0:
				sb = sessions.Sandbox{ID: id, Backend: "mem", Owner: owner, Profile: "small", Recipe: "r", State: sessions.Ready, Created: at, End: end, MaxEnd: noon.Add(4 * time.Minute)}
				sb, _, err = s.Add(t.Context(), sb, quota, sessions.Change{At: at})
			case 1:
				sb, err = s.Sandbox(t.Context(), id)
			case 2:
				list, err = s.List(t.Context(), q)
			case 3:
				sb, err = s.Move(t.Context(), id, to, sessions.Change{At: at, Reason: "why", Due: due, Owner: owner})
			case 4:
				sb, err = s.SetEnd(t.Context(), id, end, sessions.Change{At: at})
			case 5:
				sb = sessions.Sandbox{ID: id + "-new", Backend: "mem", Owner: "carol", Profile: "small", Recipe: "r", State: sessions.Requested, Created: at, End: end, MaxEnd: end}
				sb, _, err = s.Claim(t.Context(), sb, quota, sessions.Fit{EndsAfter: at, Except: []string{"sb-0"}}, sessions.Change{At: at})
			case 6:
				sb = sessions.Sandbox{ID: id, Owner: "dave", State: sessions.Ready, Created: at, End: end, MaxEnd: end, Keys: i % 3, Home: "/h"}
				sb, err = s.Trust(t.Context(), sb, sessions.Change{At: at})
			case 7:
				err = s.Intend(t.Context(), id, "h")
			}
			if err != nil {
				sb = sessions.Sandbox{}
			}
			got[n] = []any{sb, list, errors.Is(err, sessions.ErrConflict), errors.Is(err, sessions.ErrNoRecord), errors.Is(err, sessions.ErrOverQuota), err == nil}
		}
		if diff := gocmp.Diff(got[0], got[1]); diff != "" {
			t.Fatalf("change %d, kind %d of %s (-store +mem):\n%s", i, op, id, diff)
		}
	}
}
