package tools

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Pruned is a sandbox that is over, as the operator sees it.
type Pruned struct {
	SandboxID string `json:"sandbox_id"`
	Name      string `json:"name,omitempty"`
	Owner     string `json:"owner"`
	Profile   string `json:"profile"`
	Backend   string `json:"backend"`
	VMID      int    `json:"vmid,omitempty"`
	Why       string `json:"why"`
	Left      bool   `json:"left,omitempty" doc:"Another look must agree first, which comes by itself"`
	Problem   string `json:"problem,omitempty" doc:"What keeps its machine"`
}

// Unread is a backend whose machines can't be listed now.
type Unread struct {
	Backend string `json:"backend"`
	Problem string `json:"problem"`
}

// PruneOut is the result of sandbox_prune.
type PruneOut struct {
	DryRun bool     `json:"dry_run"`
	List   []Pruned `json:"sandboxes"`
	Unread []Unread `json:"undecided,omitempty" doc:"Backends whose machines can't be listed, so that nothing was decided"`
}

type pruneIn struct {
	DryRun bool `arg:"dry_run" doc:"Only say what would be done"`
}

func (s *service) sandboxPrune() Tool {
	return define(s, Tool{
		Name: "sandbox_prune", Title: "Prune sandboxes",
		Scope:       sessions.ScopeAdmin,
		Description: "Remove at once, of all owners, what has ended or is stuck, and nothing else.",
		Output:      outputOf[PruneOut](),
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Doing:       "pruning",
		Urgent:      true,
	}, func(ctx context.Context, m *sessions.Manager, in pruneIn) (Result, error) {
		p, err := m.Prune(ctx, in.DryRun)
		if err != nil {
			return Result{}, err
		}
		out := PruneOut{DryRun: in.DryRun, List: []Pruned{}}
		for _, e := range p.List {
			out.List = append(out.List, Pruned{
				SandboxID: e.ID, Name: e.Name, Owner: e.Owner, Profile: e.Profile, Backend: e.Backend, VMID: vmid(e.Handle),
				Why: e.Why, Left: e.Left, Problem: oneLine(e.Problem),
			})
		}
		for _, name := range slices.Sorted(maps.Keys(p.Unread)) {
			out.Unread = append(out.Unread, Unread{name, oneLine(p.Unread[name].Error())})
		}
		return structured(out, count(len(out.List), "sandbox", "sandboxes")), nil
	})
}

// Backend is one in the status.
type Backend struct {
	Name     string `json:"name"`
	Profiles string `json:"profiles" doc:"That are made by it, with spaces between"`
	Problem  string `json:"problem,omitempty" doc:"What keeps it from making machines"`
}

// Pool is one in the status.
type Pool struct {
	Profile string `json:"profile"`
	Size    int    `json:"size"`
	Ready   int    `json:"ready"`
	Making  int    `json:"making"`
	Rests   int    `json:"rests_seconds,omitempty" doc:"Since its last try failed"`
}

// Problem is something that is wrong with an installation.
type Problem struct {
	Problem string `json:"problem"`
}

// StateCount is how many sandboxes are in a state.
type StateCount struct {
	State string `json:"state"`
	Count int    `json:"count"`
}

// StuckOut is a sandbox that has ended and could not be removed.
type StuckOut struct {
	SandboxID string `json:"sandbox_id"`
	Name      string `json:"name,omitempty"`
	Owner     string `json:"owner"`
	Backend   string `json:"backend"`
	Problem   string `json:"problem"`
	Since     string `json:"since"`
	Tries     int    `json:"tries"`
}

// Status is the result of server_status.
type Status struct {
	Problems []Problem    `json:"problems" doc:"None: nothing is wrong"`
	Backends []Backend    `json:"backends"`
	States   []StateCount `json:"sandboxes" doc:"Of all owners, without what is in pools"`
	Pools    []Pool       `json:"pools"`
	Stuck    []StuckOut   `json:"not_removed"`
}

func (s *service) serverStatus() Tool {
	return define(s, Tool{
		Name: "server_status", Title: "Status",
		Scope:       sessions.ScopeAdmin,
		Description: "How this server does: backends, counts, pools, what can't be removed.",
		Output:      outputOf[Status](),
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Doing:       "asking the backends",
		Urgent:      true,
	}, func(ctx context.Context, m *sessions.Manager, _ struct{}) (Result, error) {
		st, err := m.Status(ctx)
		if err != nil {
			return Result{}, err
		}
		out := viewStatus(st)
		return structured(out, count(len(out.Problems), "problem", "problems")), nil
	})
}

// viewStatus says what there is and what of it is wrong: a backend that nobody
// needs may be broken.
func viewStatus(st sessions.Status) Status {
	out := Status{Problems: []Problem{}, Backends: []Backend{}, States: []StateCount{}, Pools: []Pool{}, Stuck: []StuckOut{}}
	for _, b := range st.Backends {
		v := Backend{Name: b.Name, Profiles: strings.Join(b.Profiles, " ")}
		if b.Problem != "" {
			v.Problem = oneLine(b.Problem)
			if len(b.Profiles) > 0 {
				out.add("backend %s can't be used: %s", b.Name, v.Problem)
			}
		}
		out.Backends = append(out.Backends, v)
	}
	for _, state := range slices.Sorted(maps.Keys(st.States)) {
		out.States = append(out.States, StateCount{strings.ToLower(string(state)), st.States[state]})
	}
	for _, p := range st.Pools {
		v := Pool{p.Profile, p.Size, p.Ready, p.Making, int(p.Rests.Seconds())}
		if p.Rests > 0 {
			out.add("pool %s: its last try failed, the next is in %d s; the server's log says why", p.Profile, v.Rests)
		}
		out.Pools = append(out.Pools, v)
	}
	for _, u := range sessions.Together(st.Unusable) {
		out.add("no sandbox can be made of profile %s: %s", u.Profile, oneLine(u.Problem))
	}
	for _, e := range st.Stuck {
		out.Stuck = append(out.Stuck, StuckOut{e.ID, e.Name, e.Owner, e.Backend, oneLine(e.String()), clock(e.Since), e.Tries})
		out.add("%s of %s has ended, but its machine is not removed since %s: %s", e.ID, e.Owner, clock(e.Since), oneLine(e.String()))
	}
	return out
}

func (st *Status) add(format string, args ...any) {
	st.Problems = append(st.Problems, Problem{fmt.Sprintf(format, args...)})
}

// oneLine puts what several things say into a row of a table.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }
