package tools

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// adjust returns what fills in what the definitions take from the profiles.
func adjust(profiles []sessions.Profile) func(*Property) {
	return func(p *Property) {
		if len(profiles) > 0 {
			p.take(profiles)
		}
	}
}

func (p *Property) take(profiles []sessions.Profile) {
	switch p.Name {
	case "profile":
		var about []string
		for _, f := range profiles {
			p.Enum = append(p.Enum, f.Name)
			if f.Problem != "" {
				about = append(about, f.Name+": broken, ask the operator")
				continue
			}
			about = append(about, fmt.Sprintf("%s: %s, %d MB, network %s", f.Name, strings.TrimSuffix(f.Description, "."), f.MemoryMB, f.Network))
		}
		p.Description = strings.Join(about, "; ")
	case "network":
		for _, f := range profiles {
			if !slices.Contains(p.Enum, f.Network) && f.Network != "" {
				p.Enum = append(p.Enum, f.Network)
			}
		}
	case "ttl_seconds":
		least, most := *p.Max, *p.Min
		for _, f := range profiles {
			if f.Problem != "" {
				continue
			}
			least, most = min(least, int(f.MinTTL.Seconds())), max(most, int(f.MaxTTL.Seconds()))
		}
		if least <= most { // else none can be used, and creating one tells why
			p.Min, p.Max = &least, &most
		}
	}
}

// standing says where a sandbox stands that is being made.
func standing(state sessions.State, place int) string {
	if place > 0 {
		return fmt.Sprintf("%s, number %d in line", strings.ToLower(string(state)), place)
	}
	return strings.ToLower(string(state))
}

type createIn struct {
	Profile  string `arg:"profile" of:"profiles" bytes:"100"`
	Name     string `arg:"name" bytes:"40" doc:"a-z 0-9 -. A live sandbox of yours with this name is returned instead"`
	TTL      int    `arg:"ttl_seconds" of:"profiles" min:"60" max:"86400" doc:"Lifetime; default the profile's"`
	Cores    int    `arg:"cpu" min:"1" doc:"Cores; default the profile's"`
	MemoryMB int    `arg:"memory_mb" min:"1" doc:"Default the profile's"`
	DiskGB   int    `arg:"disk_gb" min:"1" doc:"Default the profile's"`
	Network  string `arg:"network" of:"profiles" bytes:"100" doc:"Default the profile's"`
	Wait     int    `arg:"wait_seconds" default:"45" min:"0" max:"55" doc:"How long to wait until it is ready"`
}

// sandboxOut is a sandbox as clients see it in a list.
type sandboxOut struct {
	SandboxID string    `json:"sandbox_id"`
	Name      string    `json:"name,omitempty"`
	Profile   string    `json:"profile"`
	State     string    `json:"state"`
	Place     int       `json:"place_in_line,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Idle      int       `json:"idle_timeout_seconds,omitempty"`
	IP        string    `json:"ip,omitempty"`
	VMID      int       `json:"vmid,omitempty"`
	User      string    `json:"user,omitempty"`
	Home      string    `json:"home,omitempty"`
	OS        string    `json:"os,omitempty"`
}

type createOut struct {
	SandboxID string    `json:"sandbox_id"`
	Name      string    `json:"name,omitempty"`
	Profile   string    `json:"profile"`
	State     string    `json:"state"`
	Place     int       `json:"place_in_line,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
	Idle      int       `json:"idle_timeout_seconds,omitempty"`
	IP        string    `json:"ip,omitempty"`
	VMID      int       `json:"vmid,omitempty"`
	User      string    `json:"user,omitempty"`
	Home      string    `json:"home,omitempty"`
	OS        string    `json:"os,omitempty"`
	Existing  bool      `json:"existing"`
	Warm      bool      `json:"warm,omitempty"`
}

// profile returns what a sandbox was made from; if that is gone, all but the
// user is zero.
func profile(m *sessions.Manager, sb sessions.Sandbox) sessions.Profile {
	p, ok := m.ProfileOf(sb)
	if !ok {
		return sessions.Profile{User: "root"}
	}
	return p
}

// user is whom commands run as in a sandbox that don't say.
func user(m *sessions.Manager, sb sessions.Sandbox) string { return profile(m, sb).User }

func view(m *sessions.Manager, sb sessions.Sandbox) sandboxOut {
	p := profile(m, sb)
	return sandboxOut{
		SandboxID: sb.ID, Name: sb.Name, Profile: sb.Profile, State: strings.ToLower(string(sb.State)), Place: m.Place(sb.ID), Reason: sb.Reason,
		CreatedAt: sb.Created.UTC().Truncate(time.Second), ExpiresAt: sb.End.UTC().Truncate(time.Second), Idle: int(p.IdleTimeout.Seconds()),
		IP: sb.IP, VMID: vmid(sb.Handle), User: p.User, Home: sb.Home, OS: sb.OS,
	}
}

// vmid is the number by which a backend's handle names a virtual machine, 0 if
// it names none: what an operator looks for on the server.
func vmid(handle string) int {
	number, _, _ := strings.Cut(handle, " ")
	n, _ := strconv.Atoi(number)
	return n
}

// until says how long a sandbox lasts.
func until(end time.Time, idle int) string {
	if idle > 0 {
		return fmt.Sprintf("%s, or until nobody has used it for %d s", clock(end), idle)
	}
	return clock(end)
}

func views(m *sessions.Manager, list []sessions.Sandbox) []sandboxOut {
	out := []sandboxOut{}
	for _, sb := range list {
		out = append(out, view(m, sb))
	}
	return out
}

func (s *service) createSandbox() Tool {
	return define(s, Tool{
		Name: "create_sandbox", Title: "Create sandbox",
		Scope:       sessions.ScopeWrite,
		Description: "Make a disposable Linux machine of your own. Returns sandbox_id for the other tools. It and all its files are gone at expires_at. If its state is not ready yet, the other tools wait for it by themselves.",
		Output:      outputOf[createOut](),
		Meta:        map[string]any{"anthropic/alwaysLoad": true},
		Doing:       "creating the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in createIn) (Result, error) {
		sb, existing, err := m.Create(ctx, sessions.CreateRequest{
			Profile: in.Profile, Name: in.Name, TTL: seconds(in.TTL),
			Cores: in.Cores, MemoryMB: in.MemoryMB, DiskMB: in.DiskGB << 10, Network: in.Network, Wait: seconds(in.Wait),
			Step: func(state sessions.State, place int) { Report(ctx, standing(state, place)) },
		})
		if err != nil {
			return Result{Sandbox: sb.ID}, err
		}
		v := view(m, sb)
		out := createOut{v.SandboxID, v.Name, v.Profile, v.State, v.Place, v.ExpiresAt, v.Idle, v.IP, v.VMID, v.User, v.Home, v.OS, existing, sb.Keys > 0}
		res := structured(out, fmt.Sprintf("%s is %s until %s", v.SandboxID, standing(sb.State, v.Place), until(v.ExpiresAt, v.Idle)))
		res.Sandbox = sb.ID
		return res, nil
	})
}

type listIn struct {
	SandboxID string `arg:"sandbox_id" bytes:"100" doc:"Only this one, with its latest processes"`
	Wait      int    `arg:"wait_ready_seconds" default:"0" min:"0" max:"55" doc:"With sandbox_id: wait until it is ready"`
	After     string `arg:"after" bytes:"100" doc:"Go on after this sandbox: next_after of the answer before"`
}

func (in listIn) sandboxID() string { return in.SandboxID }

// Limits of one answer.
const (
	listPage    = 100
	programPage = 1000 // for a program, which has no context to fill
	maxStuck    = 20
)

type listOut struct {
	Sandboxes []sandboxOut `json:"sandboxes"`
	NextAfter string       `json:"next_after,omitempty"`
	Stuck     []stuckOut   `json:"not_removed,omitempty"`
	Processes []processOut `json:"processes,omitempty"`
}

// stuckOut is a sandbox that has ended and whose machine is still there.
type stuckOut struct {
	SandboxID string `json:"sandbox_id"`
	Name      string `json:"name,omitempty"`
	Problem   string `json:"problem"`
}

// text is for clients that show no structured results.
func (out listOut) text() string {
	var b strings.Builder
	b.WriteString(count(len(out.Sandboxes), "sandbox", "sandboxes"))
	for _, sb := range out.Sandboxes {
		fmt.Fprintf(&b, "\n%s is %s until %s · profile %s", sb.SandboxID, standing(sessions.State(sb.State), sb.Place), until(sb.ExpiresAt, sb.Idle), sb.Profile)
		if sb.Name != "" {
			b.WriteString(" · name " + sb.Name)
		}
		if sb.Reason != "" {
			b.WriteString(" · " + sb.Reason)
		}
	}
	if out.NextAfter != "" {
		fmt.Fprintf(&b, "\nthere are more: call list_sandboxes with after=%s", out.NextAfter)
	}
	for _, s := range out.Stuck {
		fmt.Fprintf(&b, "\n%s has ended, but its machine is not removed yet: %s", s.SandboxID, s.Problem)
	}
	for _, p := range out.Processes {
		fmt.Fprintf(&b, "\n%s %s · %s", p.ProcessID, p.State, brief(p.Command))
	}
	return b.String()
}

type processOut struct {
	ProcessID string    `json:"process_id"`
	Command   string    `json:"command"`
	State     string    `json:"state"`
	StartedAt time.Time `json:"started_at"`
}

func (s *service) listSandboxes() Tool {
	return define(s, Tool{
		Name: "list_sandboxes", Title: "List sandboxes",
		Scope:       sessions.ScopeRead,
		Description: "Your live sandboxes, the oldest first; with sandbox_id one of them and its processes: the running and the last that ended.",
		Output:      outputOf[listOut](),
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Meta:        hint("sandbox status, wait until ready, processes"),
		Doing:       "waiting for the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in listIn) (Result, error) {
		if in.SandboxID != "" {
			return s.describe(ctx, m, in)
		}
		most := listPage
		if wantsBytes(ctx) {
			most = programPage
		}
		page, next, err := m.Page(ctx, in.After, most)
		if err != nil {
			return Result{}, err
		}
		out := listOut{Sandboxes: views(m, page), NextAfter: next}
		if in.After == "" {
			if out.Stuck, err = notRemoved(ctx, m); err != nil {
				return Result{}, err
			}
		}
		if wantsBytes(ctx) {
			return structured(out, count(len(page), "sandbox", "sandboxes")), nil
		}
		return structured(out, out.text()), nil
	})
}

// notRemoved are sandboxes that have ended and can't be removed: they count
// against the quota of their owner.
func notRemoved(ctx context.Context, m *sessions.Manager) (out []stuckOut, err error) {
	all, err := m.Stuck(ctx)
	for _, s := range all[:min(len(all), maxStuck)] {
		out = append(out, stuckOut{s.ID, s.Name, s.String()})
	}
	return out, err
}

// describe is list_sandboxes of one. A guest that doesn't answer takes nothing
// but the processes from the answer.
func (s *service) describe(ctx context.Context, m *sessions.Manager, in listIn) (Result, error) {
	sb, err := m.Get(ctx, in.SandboxID, seconds(in.Wait))
	if err != nil {
		return Result{}, err
	}
	out := listOut{Sandboxes: []sandboxOut{view(m, sb)}}
	if sb.State == sessions.Running { // one that is READY was never used
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := m.Use(ctx, sb.ID, 0, func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
			list, err := conn.Processes().List(ctx)
			for _, p := range latest(list) {
				out.Processes = append(out.Processes, processOut{p.ID, p.Command, state(p), p.Started.UTC().Truncate(time.Second)})
			}
			return err
		})
		if err != nil {
			s.log.WarnContext(ctx, "list processes", "sandbox", sb.ID, "err", err)
		}
	}
	return structured(out, out.text()), nil
}

type extendIn struct {
	target
	TTL int `arg:"ttl_seconds" of:"profiles" default:"3600" min:"60" max:"86400" doc:"From now"`
}

type extendOut struct {
	SandboxID    string    `json:"sandbox_id"`
	ExpiresAt    time.Time `json:"expires_at"`
	MaxExpiresAt time.Time `json:"max_expires_at"`
}

func (s *service) extendTTL() Tool {
	return define(s, Tool{
		Name: "extend_ttl", Title: "Extend lifetime",
		Scope:       sessions.ScopeWrite,
		Description: "Set a sandbox's end to ttl_seconds from now, at most max_expires_at.",
		Output:      outputOf[extendOut](),
		Annotations: Annotations{Idempotent: true},
		Meta:        hint("keep a sandbox longer, lifetime, expiry"),
		Doing:       "extending the sandbox",
	}, func(ctx context.Context, m *sessions.Manager, in extendIn) (Result, error) {
		sb, err := m.Extend(ctx, in.SandboxID, seconds(in.TTL))
		if err != nil {
			return Result{}, err
		}
		out := extendOut{sb.ID, sb.End.UTC().Truncate(time.Second), sb.MaxEnd.UTC().Truncate(time.Second)}
		return structured(out, fmt.Sprintf("%s lives until %s, at most until %s", sb.ID, clock(sb.End), clock(sb.MaxEnd))), nil
	})
}

type destroyOut struct {
	SandboxID   string `json:"sandbox_id"`
	Destroyed   bool   `json:"destroyed"`
	AlreadyGone bool   `json:"already_gone"`
}

func (s *service) destroy() Tool {
	return define(s, Tool{
		Name: "destroy", Title: "Destroy sandbox",
		Scope:       sessions.ScopeWrite,
		Description: "Destroy a sandbox with all its files and processes. Do it when you are done.",
		Output:      outputOf[destroyOut](),
		Annotations: Annotations{Destructive: true, Idempotent: true},
		Meta:        hint("delete, remove, clean up a sandbox"),
		Doing:       "destroying the sandbox",
		Urgent:      true,
	}, func(ctx context.Context, m *sessions.Manager, in target) (Result, error) {
		gone, err := m.Destroy(ctx, in.SandboxID)
		if err != nil {
			return Result{}, err
		}
		text := in.SandboxID + " is destroyed"
		if gone {
			text = in.SandboxID + " was gone already"
		}
		return structured(destroyOut{in.SandboxID, true, gone}, text), nil
	})
}

// hint helps clients that load definitions on demand to find a tool.
func hint(words string) map[string]any { return map[string]any{"anthropic/searchHint": words} }

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// clock writes a time as the structured results do.
func clock(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
