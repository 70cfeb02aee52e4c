package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

// checkPrivileges compares what the token may do in effect with the least that
// it must.
func (d *Proxmox) checkPrivileges(ctx context.Context) {
	if d.Token == "" {
		d.ok("privileges", "pvesh is root@pam")
		return
	}
	w := d.want()
	w.Nodes = false // that is a warning of its own
	var lacks, paths []string
	for _, g := range w.Grants() {
		have, err := d.may(ctx, g.Path)
		if err != nil {
			d.failed("privileges", err)
			return
		}
		missing := without(setup.Privileges(d.version, g.Role), have)
		if len(missing) > 0 {
			lacks, paths = append(lacks, strings.Join(missing, ", ")+" on "+g.Path), append(paths, g.Path)
		}
	}
	if len(lacks) > 0 {
		d.add(Result{Check: "privileges", Status: Failed, Detail: "the token lacks " + strings.Join(lacks, "; "), Run: d.granting(paths...)})
		return
	}
	d.ok("privileges", "all that is needed, on %d paths", len(w.Grants()))
}

// may returns what the token may do on a path. A bridge of an SDN is in a zone
// whose name is not known here: any that gives rights on it will do.
func (d *Proxmox) may(ctx context.Context, at string) (map[string]pve.Bool, error) {
	perms, err := d.client().Permissions(ctx, at)
	if err != nil || len(perms[at]) > 0 || !strings.HasPrefix(at, "/sdn/zones/") {
		return perms[at], err
	}
	all, err := d.client().Permissions(ctx, "")
	for p, have := range all {
		if strings.HasPrefix(p, "/sdn/zones/") && path.Base(p) == path.Base(at) {
			return have, err
		}
	}
	return nil, err
}

// without returns the elements of list that have does not have.
func without[V any](list []string, have map[string]V) (rest []string) {
	for _, s := range list {
		if _, ok := have[s]; !ok {
			rest = append(rest, s)
		}
	}
	return rest
}

// checkSurplus looks for what the token may do beyond the least.
func (d *Proxmox) checkSurplus(ctx context.Context) {
	if d.Token == "" {
		return
	}
	all, err := d.client().Permissions(ctx, "")
	if err != nil {
		d.failed("surplus", err)
		return
	}
	surplus := map[string][]string{}
	for at, have := range all {
		for priv, propagates := range have {
			if !d.needed(at, priv, bool(propagates)) {
				surplus[at] = append(surplus[at], priv)
			}
		}
		slices.Sort(surplus[at])
	}
	d.inherited(all, surplus)
	if len(surplus) == 0 {
		d.ok("surplus", "no privilege beyond that")
		return
	}
	r := Result{Check: "surplus", Status: Warning}
	var details []string
	for _, at := range slices.Sorted(maps.Keys(surplus)) {
		details = append(details, strings.Join(surplus[at], ", ")+" on "+at)
		if role := d.roleOf(all[at]); role != "" {
			r.Run = append(r.Run, d.revoke(at, role))
		}
	}
	r.Detail = "the token may do more than it must: " + strings.Join(details, "; ")
	for _, step := range setup.Plan(d.version, d.want(), setup.Have{Pool: true, User: true, Token: true, Roles: d.ours(), ACLs: nil}) {
		if strings.HasPrefix(step.Name, "set the privileges") {
			r.Run = append(r.Run, step.Command())
		}
	}
	if len(r.Run) == 0 {
		r.Do = "find the grant, and remove it: pvesh get /access/acl"
	}
	d.add(r)
}

// needed reports whether the token should have a privilege on a path.
func (d *Proxmox) needed(at, priv string, propagates bool) bool {
	w := d.want()
	w.Nodes = true // harmless
	if strings.HasPrefix(at, "/nodes/") {
		at = "/nodes"
	}
	for _, g := range w.Grants() {
		same := g.Path == at || g.Role == setup.NetworkRole && strings.HasPrefix(at, "/sdn/zones/") && path.Base(at) == path.Base(g.Path)
		// A machine has what its pool gives, but hands it down to nobody (measured).
		member := g.Role == setup.PoolRole && strings.HasPrefix(at, "/vms/") && !propagates
		if (same || member) && slices.Contains(setup.Privileges(d.version, g.Role), priv) {
			return true
		}
	}
	return false
}

// inherited removes what is so only since it is so above, or in the pool.
func (d *Proxmox) inherited(all pve.Permissions, surplus map[string][]string) {
	pool := all["/pool/"+d.Backend.Pool]
	for at, privs := range surplus {
		surplus[at] = slices.DeleteFunc(privs, func(priv string) bool {
			if _, ok := pool[priv]; ok && strings.HasPrefix(at, "/vms/") && !bool(all[at][priv]) {
				return true
			}
			for above := at; above != "/"; {
				above = path.Dir(above)
				if propagates, ok := all[above][priv]; ok && bool(propagates) {
					return true
				}
			}
			return false
		})
	}
	maps.DeleteFunc(surplus, func(_ string, privs []string) bool { return len(privs) == 0 })
}

// roleOf returns the role, none of ours, that gives exactly these privileges.
func (d *Proxmox) roleOf(have map[string]pve.Bool) string {
	for _, r := range d.roles {
		privs := strings.Split(r.Privs, ",")
		if !strings.HasPrefix(r.ID, "AgentLab") && len(privs) == len(have) && len(without(privs, have)) == 0 {
			return r.ID
		}
	}
	return ""
}

// ours returns the roles of ours that have other privileges than they should.
func (d *Proxmox) ours() (roles []pve.Role) {
	for _, want := range setup.Roles(d.version) {
		i := slices.IndexFunc(d.roles, func(r pve.Role) bool { return r.ID == want.Name })
		if i < 0 { // it is not there to be set
			roles = append(roles, pve.Role{ID: want.Name, Privs: strings.Join(want.Privs, ",")})
			continue
		}
		roles = append(roles, d.roles[i])
	}
	return roles
}

// revoke returns the command that takes a role on a path from the token.
func (d *Proxmox) revoke(at, role string) string {
	return pve.Request{Method: http.MethodPut, Path: []string{"access", "acl"}, Params: url.Values{
		"path": {at}, "roles": {role}, "tokens": {d.Token}, "delete": {"1"},
	}}.Command()
}

// checkNodes looks at which nodes there are.
func (d *Proxmox) checkNodes(ctx context.Context) {
	var err error
	if d.nodes, err = d.client().Nodes(ctx); err != nil {
		d.failed("nodes", err)
		return
	}
	var online, offline []string
	hidden := false
	for _, n := range d.nodes {
		if n.Online() {
			online = append(online, n.Name)
			hidden = hidden || n.MaxMem == 0
		} else {
			offline = append(offline, n.Name)
		}
	}
	slices.Sort(online)
	slices.Sort(offline)
	detail := fmt.Sprintf("online: %s", strings.Join(online, ", "))
	if len(offline) > 0 {
		detail += "; not online: " + strings.Join(offline, ", ")
	}
	missing := slices.DeleteFunc(slices.Clone(d.Backend.Nodes), func(n string) bool { return slices.Contains(online, n) })
	switch {
	case len(missing) > 0:
		d.add(Result{Check: "nodes", Status: Failed, Detail: fmt.Sprintf("proxmox_node %s is not among them (%s)", strings.Join(missing, ", "), detail),
			Do: "start it, or set proxmox_node to another, or leave it out"})
	case hidden && len(d.nodes) > 1:
		d.add(Result{Check: "nodes", Status: Warning, Detail: detail + "; their free memory can't be seen, and is guessed from the machines that can",
			Run: d.granting("/nodes")})
	case len(offline) > 0:
		d.add(Result{Check: "nodes", Status: Warning, Detail: detail, Do: "start what ought to be online"})
	default:
		d.ok("nodes", "%s", detail)
	}
}
