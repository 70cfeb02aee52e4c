package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Status is how an installation does, for its operator.
type Status struct {
	Backends []BackendStatus // by name
	States   map[State]int   // of all owners, without what is in pools
	Pools    []PoolStatus    // by profile
	Stuck    []Stuck         // the longest stuck first
	Unusable []Unusable      // profiles, in their order
}

// Unusable is a profile of which no machine can be made, while its backend can
// make machines.
type Unusable struct {
	Profile string
	Problem string // what is wrong with its file, or what the backend lacks for it
}

// BackendStatus is what a backend says of itself now.
type BackendStatus struct {
	Name     string
	Profiles []string // that are made by it
	Problem  string   // what keeps it from making machines; empty is nothing
}

// PoolStatus is how full a pool is.
type PoolStatus struct {
	Profile string
	Size    int // that it is to have
	Ready   int
	Making  int
	Rests   time.Duration // until it is tried again, since the last try has failed; 0 if it has not
}

// Together makes one of those that have the same problem, as variants of one
// profile do.
func Together(list []Unusable) (short []Unusable) {
	for _, u := range list {
		i := slices.IndexFunc(short, func(s Unusable) bool { return s.Problem == u.Problem })
		if i < 0 {
			short = append(short, u)
		} else {
			short[i].Profile += ", " + u.Profile
		}
	}
	return short
}

// Status does what Vet does, and counts what there is.
func (m *Manager) Status(ctx context.Context) (Status, error) {
	m.Offered(ctx)
	all, err := m.Store.List(ctx, Query{Ending: true})
	if err != nil {
		return Status{}, internal("", err)
	}
	st := Status{States: map[State]int{}, Stuck: m.AllStuck()}
	slices.SortFunc(st.Stuck, byAge)
	members := map[string][]Sandbox{}
	for _, sb := range all {
		if sb.Pooled() {
			members[sb.Profile] = append(members[sb.Profile], sb)
		} else {
			st.States[sb.State]++
		}
	}
	for name, p := range m.profiles.Load().pools {
		st.Pools = append(st.Pools, p.status(members[name]))
	}
	slices.SortFunc(st.Pools, func(a, b PoolStatus) int { return strings.Compare(a.Profile, b.Profile) })
	st.Backends, st.Unusable = m.Vet(ctx)
	return st, ctx.Err()
}

// status counts the members of the pool.
func (p *pool) status(members []Sandbox) PoolStatus {
	_, _, rests := p.state()
	st := PoolStatus{Profile: p.profile.Name, Size: p.profile.Pool.Size, Rests: max(0, time.Until(rests))}
	for _, sb := range members {
		switch {
		case sb.State == Ready:
			st.Ready++
		case sb.State.making():
			st.Making++
		}
	}
	return st
}

// Vet asks all backends whether they can make machines, and those that can about
// each of their profiles, each for up to 20 s. It returns the backends by name, and
// the profiles of which, all the same, no machine can be made.
func (m *Manager) Vet(ctx context.Context) ([]BackendStatus, []Unusable) {
	m.init()
	backends := m.askBackends(ctx)
	return backends, m.askProfiles(ctx, backends)
}

// askBackends asks all at once, so that one that hangs delays no other.
func (m *Manager) askBackends(ctx context.Context) []BackendStatus {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	list := make([]BackendStatus, 0, len(m.Backends)) // whose elements stay where they are
	var wg sync.WaitGroup
	for name, p := range m.Backends {
		st := BackendStatus{Name: name}
		for _, profile := range m.profiles.Load().list {
			if profile.Backend == name {
				st.Profiles = append(st.Profiles, profile.Name)
			}
		}
		list = append(list, st)
		entry := &list[len(list)-1]
		if c, ok := provisioner.As[provisioner.Checker](p); ok {
			wg.Go(func() { entry.Problem = health(ctx, c.Check) })
		}
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b BackendStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// askProfiles asks the backends that are well for all their profiles at once.
func (m *Manager) askProfiles(ctx context.Context, backends []BackendStatus) (list []Unusable) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	profiles := m.profiles.Load().list
	problems := make([]string, len(profiles))
	var wg sync.WaitGroup
	for i, p := range profiles {
		b := slices.IndexFunc(backends, func(b BackendStatus) bool { return b.Name == p.Backend })
		v, ok := provisioner.As[provisioner.Vetter](m.Backends[p.Backend])
		switch {
		case p.Problem != "":
			problems[i] = p.Problem
		case b < 0:
			problems[i] = p.homeless()
		case ok && backends[b].Problem == "":
			wg.Go(func() {
				problems[i] = health(ctx, func(ctx context.Context) error { return v.Vet(ctx, m.specOf(p, p.sandbox())) })
			})
		}
	}
	wg.Wait()
	for i, problem := range problems {
		if problem != "" {
			list = append(list, Unusable{profiles[i].Name, problem})
		}
	}
	return list
}

// health asks a backend. One that heeds no ctx is not waited for.
func health(ctx context.Context, check func(context.Context) error) string {
	answer := make(chan error, 1)
	go func() { answer <- check(ctx) }()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %v", checkLimit)
	}
	return unavailable(err)
}
