package tools

import (
	"context"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Limits of a completion: somebody is typing.
const (
	maxCompletions = 100 // values; the protocol allows no more
	completionMost = 2 * time.Second
)

// Completer proposes values for the variables of templates and the arguments
// of prompts: sandbox_id, process_id, path and profile, by their names. It
// proposes only what is the caller's.
type Completer struct {
	Scope sessions.Scope
	svc   *service
}

// NewCompleter returns a Completer. Open and log are as for [All].
func NewCompleter(open Source, log *slog.Logger) *Completer {
	return &Completer{Scope: sessions.ScopeRead, svc: &service{open: open, log: log}}
}

// Complete returns the values that go on from what was typed, and how many
// there are in all. Given are the values of other variables. What can't be
// found out has no values: a person who types is not to be stopped by an error.
func (c *Completer) Complete(ctx context.Context, variable, typed string, given map[string]string) (values []string, total int) {
	propose := map[string]func(context.Context, *sessions.Manager, string, map[string]string) ([]string, int, error){
		"sandbox_id": completeSandbox, "process_id": completeProcess, "path": completePath, "profile": completeProfile,
	}[variable]
	if propose == nil {
		return nil, 0
	}
	ctx, cancel := context.WithTimeout(ctx, completionMost)
	defer cancel()
	m, err := c.svc.open(ctx)
	if err != nil {
		return nil, 0
	}
	values, total, err = propose(ctx, m, typed, given)
	if err != nil {
		c.svc.log.DebugContext(ctx, "complete", "variable", variable, "err", err)
		return nil, 0
	}
	return values[:min(len(values), maxCompletions)], max(total, len(values))
}

// completeSandbox proposes ids by how they begin, or by how the name does. The
// latest sandbox comes first.
func completeSandbox(ctx context.Context, m *sessions.Manager, typed string, _ map[string]string) (ids []string, _ int, _ error) {
	list, err := m.List(ctx)
	for _, sb := range slices.Backward(list) {
		if strings.HasPrefix(sb.ID, typed) || strings.HasPrefix(sb.Name, typed) {
			ids = append(ids, sb.ID)
		}
	}
	return ids, 0, err
}

func completeProfile(ctx context.Context, m *sessions.Manager, typed string, _ map[string]string) (names []string, _ int, _ error) {
	for _, p := range m.Offered(ctx) {
		if p.Problem == "" && strings.HasPrefix(p.Name, typed) {
			names = append(names, p.Name)
		}
	}
	return names, 0, nil
}

// completeProcess proposes the processes of the sandbox, the latest first.
func completeProcess(ctx context.Context, m *sessions.Manager, typed string, given map[string]string) (ids []string, _ int, _ error) {
	err := look(ctx, m, given["sandbox_id"], func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
		list, err := conn.Processes().List(ctx)
		for _, p := range slices.Backward(list) {
			if strings.HasPrefix(p.ID, typed) {
				ids = append(ids, p.ID)
			}
		}
		return err
	})
	return ids, 0, err
}

// completePath proposes what is in the directory that was typed, or the home
// directory before anything was. A % is encoded already: {+path} takes what
// looks like an encoded character for one.
func completePath(ctx context.Context, m *sessions.Manager, typed string, given map[string]string) (paths []string, total int, err error) {
	at := place{}
	typed = at.decode("path", typed, 4095)
	if at.problem != nil || typed != "" && typed[0] != '/' {
		return nil, 0, at.problem
	}
	err = look(ctx, m, given["sandbox_id"], func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
		dir, base := path.Split(typed)
		if typed == "" {
			dir = sb.Home
		}
		list, err := conn.ListFiles(ctx, dir, guest.ListOptions{Pattern: escapeGlob(base) + "*", Limit: maxCompletions})
		for _, f := range list.Files {
			name := strings.ReplaceAll(f.Path, "%", "%25")
			if f.Mode.IsDir() {
				name += "/"
			}
			paths = append(paths, name)
		}
		total = list.Total
		return err
	})
	return paths, total, err
}

// look uses a sandbox that is in use already: typing wakes none.
func look(ctx context.Context, m *sessions.Manager, id string, fn func(context.Context, sessions.Sandbox, guest.Conn) error) error {
	if sb, err := m.Get(ctx, id, 0); err != nil || sb.State != sessions.Running {
		return err
	}
	return m.Use(ctx, id, 0, fn)
}
