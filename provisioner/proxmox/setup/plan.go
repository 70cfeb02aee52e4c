package setup

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Have is what there is already.
type Have struct {
	Pool  bool // the wanted one
	User  bool // the wanted one
	Token bool // the wanted one
	Roles []pve.Role
	ACLs  []pve.ACL
}

// Step is one change.
type Step struct {
	Name  string // create pool agentlab
	token bool   // it makes the token
	call  func(context.Context, *pve.Client) (redact.String, error)
}

// Plan returns what is to be changed to get from have to want, in order.
func Plan(v pve.Version, want Want, have Have) []Step {
	var steps []Step
	add := func(name string, call func(context.Context, *pve.Client) error) {
		steps = append(steps, Step{Name: name, call: func(ctx context.Context, c *pve.Client) (redact.String, error) {
			return "", call(ctx, c)
		}})
	}
	if !have.Pool {
		add("create pool "+want.Pool, func(ctx context.Context, c *pve.Client) error { return c.CreatePool(ctx, want.Pool, comment) })
	}
	for _, r := range Roles(v) {
		if !slices.ContainsFunc(want.Grants(), func(g Grant) bool { return g.Role == r.Name }) {
			continue
		}
		i := slices.IndexFunc(have.Roles, func(h pve.Role) bool { return h.ID == r.Name })
		if i < 0 {
			add("create role "+r.Name, func(ctx context.Context, c *pve.Client) error { return c.CreateRole(ctx, r.Name, nil) })
		}
		if i < 0 || !sameSet(strings.Split(have.Roles[i].Privs, ","), r.Privs) {
			add("set the privileges of role "+r.Name, func(ctx context.Context, c *pve.Client) error { return c.SetRole(ctx, r.Name, r.Privs) })
		}
	}
	if !have.User {
		add("create user "+want.User, func(ctx context.Context, c *pve.Client) error { return c.CreateUser(ctx, want.User, comment) })
	}
	if !have.Token {
		steps = append(steps, Step{Name: "create token " + want.TokenID(), token: true, call: func(ctx context.Context, c *pve.Client) (redact.String, error) {
			return c.CreateToken(ctx, want.User, want.Token, comment)
		}})
	}
	for _, g := range want.Grants() {
		if !holds(have.ACLs, g, "user", want.User) || !holds(have.ACLs, g, "token", want.TokenID()) {
			add(fmt.Sprintf("grant %s on %s", g.Role, g.Path), func(ctx context.Context, c *pve.Client) error {
				return c.Grant(ctx, g.Path, g.Role, want.User, want.Token)
			})
		}
	}
	return steps
}

const comment = "AgentLab: disposable machines for agents"

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func holds(acls []pve.ACL, g Grant, kind, who string) bool {
	return slices.ContainsFunc(acls, func(a pve.ACL) bool {
		return a.Path == g.Path && a.Role == g.Role && a.Type == kind && a.Holder == who && bool(a.Propagate)
	})
}

// Command returns the step as a command line for a shell of root on a node.
func (s Step) Command() string {
	var calls recorder
	_, _ = s.call(context.Background(), &pve.Client{Transport: &calls})
	return strings.Join(calls, "\n")
}

// recorder is a transport that only notes the calls, as commands.
type recorder []string

func (r *recorder) Do(_ context.Context, call pve.Request) (json.RawMessage, error) {
	*r = append(*r, call.Command())
	return json.RawMessage("{}"), nil
}

const scriptHead = `# Run this as root on any node of the cluster. That something "already exists" does no harm.
# The secret of the token is shown once: put it, as USER@REALM!NAME=SECRET, into a file
# that only you can read, and name that in config.yaml as proxmox_api_token_file.
`

// Script returns all steps as commands for a shell of root on a node, of
// whatever version it is.
func Script(want Want) (string, error) {
	if err := want.Validate(); err != nil {
		return "", err
	}
	for _, t := range want.Templates {
		if !isID(t) {
			return "", fmt.Errorf("template: got %q, want its VMID; to see it, run on a node: pvesh get /cluster/resources --type vm", t)
		}
	}
	var b strings.Builder
	b.WriteString(scriptHead)
	old, current := Plan(pve.Version{Major: 8}, want, Have{}), Plan(pve.Version{Major: 9}, want, Have{})
	for i, s := range current {
		before, since := old[i].Command(), s.Command()
		if before == since {
			b.WriteString(since + "\n")
			continue
		}
		fmt.Fprintf(&b, "case \"$(pveversion)\" in\npve-manager/8.*) %s ;;\n*) %s ;;\nesac\n", before, since)
	}
	for _, left := range []struct {
		out  bool
		what string
	}{
		{len(want.Templates) == 0, "the template to clone: --template VMID"},
		{len(want.Storages) == 0, "the storage of its disks: --storage NAME"},
		{len(want.Bridges) == 0, "the bridge of its network card, if it has one: --bridge NAME"},
	} {
		if left.out {
			b.WriteString("# Still to be granted is " + left.what + "\n")
		}
	}
	return b.String(), nil
}
