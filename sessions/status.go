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

// Status asks all backends whether they can make machines, each for up to 20 s,
// and counts what there is.
func (m *Manager) Status(ctx context.Context) (Status, error) {
	m.init()
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
	for name, p := range m.pools {
		st.Pools = append(st.Pools, p.status(members[name]))
	}
	slices.SortFunc(st.Pools, func(a, b PoolStatus) int { return strings.Compare(a.Profile, b.Profile) })
	st.Backends = m.askBackends(ctx)
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

// askBackends asks all at once, so that one that hangs delays no other.
func (m *Manager) askBackends(ctx context.Context) []BackendStatus {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	list := make([]BackendStatus, 0, len(m.Backends)) // whose elements stay where they are
	var wg sync.WaitGroup
	for name, p := range m.Backends {
		st := BackendStatus{Name: name}
		for _, profile := range m.Profiles {
			if profile.WithDefaults().Backend == name {
				st.Profiles = append(st.Profiles, profile.Name)
			}
		}
		list = append(list, st)
		entry := &list[len(list)-1]
		if c, ok := provisioner.As[provisioner.Checker](p); ok {
			wg.Go(func() { entry.Problem = health(ctx, c) })
		}
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b BackendStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// health asks a backend. One that heeds no ctx is not waited for.
func health(ctx context.Context, c provisioner.Checker) string {
	answer := make(chan error, 1)
	go func() { answer <- c.Check(ctx) }()
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
