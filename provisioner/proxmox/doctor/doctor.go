// Package doctor looks for what keeps AgentLab from working with a Proxmox VE,
// and says for each thing it finds what mends it.
//
// It changes nothing, except that on request it makes one machine, measures
// how long that took, and destroys it.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

// Status says how a check went.
type Status string

// The statuses. A warning does not keep machines from being made.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "FAILED"
)

// Result is what came of one check.
type Result struct {
	Check  string   `json:"check"`
	Status Status   `json:"status"`
	Detail string   `json:"detail"`
	Run    []string `json:"run,omitempty"` // commands that mend it, for root on a node
	Do     string   `json:"do,omitempty"`  // what mends it, where no such command does
	// Steps are how long a machine took that was made to measure that.
	Steps []Step `json:"steps,omitempty"`
}

// Proxmox checks one installation on a Proxmox VE.
type Proxmox struct {
	// Backend is required, and must not have been used yet.
	Backend *proxmox.Provisioner
	// Roots are what the profiles make machines of, as in [provisioner.Spec].
	Roots []string
	URL   string    // of the API; empty if calls are made by pvesh
	Trust pve.Trust // of that URL
	Token string    // USER@REALM!NAME; empty if calls are made by pvesh
	// Create makes one machine of each root, and destroys it.
	Create bool
	// Patience is what that machine may take until a command was run in it; 0 is
	// 5 min.
	Patience time.Duration

	results   []Result
	version   pve.Version
	nodes     []pve.Node
	templates []proxmox.Template
	roles     []pve.Role
	watch     *stopwatch
}

// Try makes one machine of a root, runs a command in it and destroys it, for an
// owner of this name. What a Try for that owner has left that was killed is
// destroyed before: there must be one at a time.
func (d *Proxmox) Try(ctx context.Context, root, owner string) Result {
	d.watch = &stopwatch{Transport: d.client().Transport}
	d.client().Transport = d.watch
	left, err := d.Backend.List(ctx)
	for _, m := range left {
		if m.Papers.Owner == owner {
			err = errors.Join(err, d.Backend.Destroy(ctx, m.Ref))
		}
	}
	if err != nil {
		d.failed("remains", err)
	} else {
		d.checkCreate(ctx, root, owner)
	}
	return d.results[len(d.results)-1]
}

// Check makes all checks that can be made, once. Those that need what has
// failed already are left out.
func (d *Proxmox) Check(ctx context.Context) []Result {
	d.watch = &stopwatch{Transport: d.client().Transport}
	d.client().Transport = d.watch
	if !d.reach(ctx) {
		return d.results
	}
	if d.token(ctx) {
		d.lookAround(ctx)
	}
	return d.results
}

func (d *Proxmox) lookAround(ctx context.Context) {
	for _, check := range []func(context.Context){
		d.checkNodes, d.checkTemplates, d.checkPool, d.checkPrivileges, d.checkSurplus, d.checkTags,
		d.checkStorages, d.checkBridges, d.checkVMIDs, d.checkAgent,
	} {
		check(ctx)
	}
	if !d.Create {
		return
	}
	failed := slices.ContainsFunc(d.results, func(r Result) bool { return r.Status == Failed })
	if failed {
		d.add(Result{Check: "create", Status: Failed, Detail: "not tried", Do: "mend what failed above first"})
		return
	}
	for _, root := range d.Roots {
		d.checkCreate(ctx, root, "doctor")
	}
}

func (d *Proxmox) add(r Result) { d.results = append(d.results, r) }

func (d *Proxmox) ok(check, format string, args ...any) {
	d.add(Result{Check: check, Status: OK, Detail: fmt.Sprintf(format, args...)})
}

func (d *Proxmox) client() *pve.Client { return d.Backend.Client }

// failed adds an error of a call that ought to work.
func (d *Proxmox) failed(check string, err error) {
	r := Result{Check: check, Status: Failed, Detail: err.Error(), Do: "look at the node: journalctl -u pveproxy -u pvedaemon, and pvesh get /cluster/status"}
	var e *pve.Error
	if !errors.As(err, &e) || e.Kind == pve.Permission { // what is not Proxmox's word is of the backend, which misses a privilege
		r.Do = "see privileges"
	}
	d.add(r)
}

// want is what the token should have been given, for what is configured and
// was found.
func (d *Proxmox) want() setup.Want {
	w := setup.Want{Pool: d.Backend.Pool, Nodes: len(d.nodes) > 1}
	w.User, w.Token, _ = strings.Cut(d.Token, "!")
	for _, t := range d.templates {
		w.Templates = append(w.Templates, fmt.Sprint(t.VM.ID))
		for _, s := range t.Disks {
			w.Storages = append(w.Storages, s.Storage)
		}
		if t.Target != "" {
			w.Storages = append(w.Storages, t.Target)
		}
		w.Bridges = append(w.Bridges, t.Bridges...)
	}
	for _, root := range d.Roots { // one that is not seen yet can be named only by its ID
		if id := pve.ParseProperties(root).First(); strings.Trim(id, "0123456789") == "" && id != "" {
			w.Templates = append(w.Templates, id)
		}
	}
	if d.Backend.Bridge != "" {
		w.Bridges = append(w.Bridges, d.Backend.Bridge)
	}
	for _, list := range []*[]string{&w.Templates, &w.Storages, &w.Bridges} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	return w
}

// granting returns the commands that give the token what it should have on
// some paths. Without a token everything is allowed, and there are none.
func (d *Proxmox) granting(paths ...string) []string {
	if d.Token == "" {
		return nil
	}
	w := d.want()
	have := setup.Have{Pool: true, User: true, Token: true}
	concerned := map[string]bool{} // roles
	for _, g := range w.Grants() {
		if slices.Contains(paths, g.Path) {
			concerned[g.Role] = true
			continue
		}
		for kind, who := range map[string]string{"user": w.User, "token": w.TokenID()} {
			have.ACLs = append(have.ACLs, pve.ACL{Path: g.Path, Role: g.Role, Type: kind, Holder: who, Propagate: true})
		}
	}
	for _, r := range setup.Roles(d.version) {
		if !concerned[r.Name] {
			have.Roles = append(have.Roles, pve.Role{ID: r.Name, Privs: strings.Join(r.Privs, ",")})
		}
	}
	for _, r := range d.roles {
		if concerned[r.ID] {
			have.Roles = append(have.Roles, r)
		}
	}
	var run []string
	for _, s := range setup.Plan(d.version, w, have) {
		run = append(run, s.Command())
	}
	return run
}
