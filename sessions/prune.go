package sessions

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Pruned is a sandbox that has ended, or is to end, and what plan says about it.
type Pruned struct {
	Sandbox // as recorded, or as its machine's papers tell
	Why     string
	Left    bool   // another look must agree first, which comes by itself
	Problem string // what keeps its machine; empty if that is gone, or was not tried
}

// Pruning is the answer of [Manager.Prune].
type Pruning struct {
	List   []Pruned
	Unread map[string]error // by backend: its machines can't be listed, so nothing was decided
}

// Prune looks at the machines of all backends and at their records, and ends and
// removes what [plan] says is over: it is Run's work, done at once and told of.
// What could not be removed so far is tried again now. A dry one only says what it
// would do. It waits for the removals as [Manager.Destroy] does.
func (m *Manager) Prune(ctx context.Context, dry bool) (Pruning, error) {
	m.init()
	p := Pruning{Unread: map[string]error{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, backend := range m.Backends {
		wg.Go(func() {
			list, err := m.pruneBackend(ctx, name, backend, dry)
			mu.Lock()
			defer mu.Unlock()
			if p.List = append(p.List, list...); err != nil {
				p.Unread[name] = err
			}
		})
	}
	wg.Wait()
	slices.SortFunc(p.List, func(a, b Pruned) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	if m.ctx.Err() != nil {
		return Pruning{}, errStopping
	}
	return p, ctx.Err()
}

// prunes are what Prune does of what plan may say, and in which words.
var prunes = map[verb]string{
	doExpire: "its time is up",
	doFail:   "", // it says why
	doRemove: "it has ended, and its machine is still there",
	doTrim:   "it has a second machine",
	doFinish: "it has ended and has no machine",
}

func (m *Manager) pruneBackend(ctx context.Context, name string, p provisioner.Provisioner, dry bool) (list []Pruned, err error) {
	_, _, todo, err := m.decide(ctx, name, p)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	list = make([]Pruned, 0, len(todo)) // whose elements stay where they are
	for _, a := range todo {
		why, ours := prunes[a.do]
		if !ours {
			continue
		}
		a.sb.Backend = name
		list = append(list, Pruned{Sandbox: a.sb, Why: cmp.Or(why, a.reason), Left: a.doubt, Problem: m.problem(a.sb.ID)})
		if dry || a.doubt {
			continue
		}
		entry := &list[len(list)-1]
		wg.Go(func() { entry.Problem = m.pruneOne(ctx, name, a) })
	}
	return list, nil
}

// decide reads the records of a backend and looks at its machines, and says what
// is to be done.
func (m *Manager) decide(ctx context.Context, name string, p provisioner.Provisioner) (recorded []Sandbox, seen []provisioner.Machine, todo []action, err error) {
	// The record first and the world second, or a sandbox born between the two
	// looks vanished. If the world can't be read, nothing is decided.
	recorded, err = m.Store.List(ctx, Query{Backend: name, Ending: true})
	if err != nil {
		return nil, nil, nil, err
	}
	seen, err = m.look(ctx, p)
	if err != nil {
		return nil, nil, nil, err
	}
	recorded, err = m.alsoRecorded(ctx, recorded, seen)
	if err != nil {
		return nil, nil, nil, err
	}
	_, restarts := provisioner.As[provisioner.Stopper](p)
	return recorded, seen, plan(recorded, seen, m.now(), m.started, m.MakeTimeout, restarts), nil
}

// problem says what kept a machine from being removed so far.
func (m *Manager) problem(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck[id].String()
}

// pruneOne carries out an action, and waits until it is done, has failed once or
// DestroyTimeout is over. It returns what is in its way.
func (m *Manager) pruneOne(ctx context.Context, backend string, a action) string {
	ctx, cancel := context.WithTimeout(ctx, m.DestroyTimeout)
	defer cancel()
	if a.do == doTrim { // which is tried once, and may have failed before we look for it
		return m.hurryOn(ctx, trimming(a.sb.Ref()), m.trim(backend, a.sb.Ref()))
	}
	if err := m.do(ctx, backend, a); err != nil {
		m.Log.Error("prune", "id", a.sb.ID, "do", a.do, "err", err)
		_, problem := obstacle(err)
		return problem
	}
	problem := m.hurry(ctx, a.sb.ID)
	if cur, err := m.Store.Sandbox(ctx, a.sb.ID); problem == "" && err == nil && cur.State.Live() {
		return "it was not over after all, and goes on"
	}
	return problem
}
