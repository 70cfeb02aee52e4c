package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

const (
	// littleSpace on a storage is worth a warning: linked clones grow.
	littleSpace = 10 << 30
	// probes is how many VMIDs are looked at for machines that the token does
	// not see, by that many calls at once.
	probes, probesAtOnce = 200, 4
)

// checkTemplates looks at what the profiles name.
func (d *Proxmox) checkTemplates(ctx context.Context) {
	if len(d.Roots) == 0 {
		d.add(Result{Check: "template", Status: Failed, Detail: "neither a profile nor the configuration names one",
			Do: "set proxmox_template to the name or VMID of a template; docs/proxmox.md says how to make one"})
	}
	for _, root := range d.Roots {
		check := "template " + pve.ParseProperties(root).First()
		found, err := d.Backend.Templates(ctx, root)
		switch {
		case err != nil:
			d.failed(check, err)
			continue
		case len(found) == 0:
			d.unseen(check, root)
			continue
		}
		d.templates = append(d.templates, found...)
		var flaws []proxmox.Flaw
		var fit, unfit []string
		for _, t := range found {
			if len(t.Flaws) == 0 {
				fit = append(fit, fmt.Sprintf("%v, for machines on %s", t.VM, strings.Join(t.Nodes, ", ")))
			}
			for _, f := range t.Flaws {
				unfit, flaws = append(unfit, fmt.Sprintf("%v %s", t.VM, f.What)), append(flaws, f)
			}
		}
		r := Result{Check: check, Status: OK, Detail: strings.Join(append(unfit, fit...), "; ")}
		if len(flaws) > 0 {
			r.Status = Warning
			r.mendedBy(flaws)
		}
		if len(fit) == 0 {
			r.Status = Failed
		}
		d.add(r)
	}
}

func (r *Result) mendedBy(flaws []proxmox.Flaw) {
	var do []string
	for _, f := range flaws {
		if f.Run != "" {
			r.Run = append(r.Run, f.Run)
		} else {
			do = append(do, f.Do)
		}
	}
	r.Do = strings.Join(do, "; ")
}

// unseen says what to do about a template that the token does not see.
func (d *Proxmox) unseen(check, root string) {
	name := pve.ParseProperties(root).First()
	r := Result{Check: check, Status: Failed, Detail: "there is none that the token sees"}
	if strings.Trim(name, "0123456789") == "" {
		r.Run = d.granting("/vms/" + name)
		r.Do = "if there is no such machine, name another, or make one as docs/proxmox.md says"
	} else {
		r.Do = "let the token see it: agentlab proxmox setup --apply --template " + name + "; if there is none, make it as docs/proxmox.md says"
	}
	d.add(r)
}

func (d *Proxmox) checkPool(ctx context.Context) {
	pool, err := d.client().Pool(ctx, d.Backend.Pool)
	switch {
	case errors.Is(err, pve.NotFound):
		w, have := d.want(), setup.Have{User: true, Token: true}
		step := setup.Plan(d.version, w, have)[0]
		run := append([]string{step.Command()}, d.granting("/pool/"+d.Backend.Pool)...)
		d.add(Result{Check: "pool", Status: Failed, Detail: err.Error(), Run: run})
	case errors.Is(err, pve.Permission):
		d.add(Result{Check: "pool", Status: Failed, Detail: "the token may not see pool " + d.Backend.Pool, Run: d.granting("/pool/" + d.Backend.Pool),
			Do: "and if there is no such pool: pvesh create /pools --poolid " + d.Backend.Pool})
	case err != nil:
		d.failed("pool", err)
	default:
		d.ok("pool", "%s has %d members", pool.ID, len(pool.Members))
	}
}

// checkStorages looks at where the disks of the templates are.
func (d *Proxmox) checkStorages(ctx context.Context) {
	list, err := d.client().Resources(ctx, "storage")
	if err != nil {
		d.failed("storage", err)
		return
	}
	for _, name := range d.want().Storages {
		d.checkStorage("storage "+name, name, list)
	}
}

func (d *Proxmox) checkStorage(check, name string, list []pve.Resource) {
	var details, down []string
	status := OK
	for _, s := range list {
		if s.Storage != name {
			continue
		}
		free := s.MaxDisk - s.Disk
		details = append(details, fmt.Sprintf("%d GiB free on %s", free>>30, s.Node))
		switch {
		case s.Status != "available":
			down = append(down, s.Node)
		case free < littleSpace:
			status = Warning
		}
		if s.Content != "" && !slices.Contains(strings.Split(s.Content, ","), "images") {
			d.add(Result{Check: check, Status: Failed, Detail: "it does not take disks (content " + s.Content + ")",
				Run: []string{fmt.Sprintf("pvesh set /storage/%s --content %s,images", name, s.Content)}})
			return
		}
	}
	switch {
	case len(details) == 0:
		d.add(Result{Check: check, Status: Failed, Detail: "the token does not see it", Run: d.granting("/storage/" + name)})
	case len(down) == len(details):
		d.add(Result{Check: check, Status: Failed, Detail: "it is not available on " + strings.Join(down, ", "), Do: "look at it on the node: pvesm status --storage " + name})
	case status == Warning || len(down) > 0:
		d.add(Result{Check: check, Status: Warning, Detail: strings.Join(details, ", ") + notAvailable(down), Do: "make room; pvesm status --storage " + name + " shows it on a node"})
	default:
		d.ok(check, "%s", strings.Join(details, ", "))
	}
}

func notAvailable(nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	return "; not available on " + strings.Join(nodes, ", ")
}

// checkBridges looks whether the networks are there on all nodes where machines
// will be.
func (d *Proxmox) checkBridges(ctx context.Context) {
	need := map[string][]string{} // nodes by bridge
	for _, t := range d.templates {
		bridges := t.Bridges
		if d.Backend.Bridge != "" {
			bridges = append(slices.Clone(bridges), d.Backend.Bridge)
		}
		for _, b := range bridges {
			need[b] = append(need[b], t.Nodes...)
		}
	}
	seen := map[string]map[string]bool{} // bridges by node
	for _, b := range slices.Sorted(maps.Keys(need)) {
		nodes := slices.Compact(slices.Sorted(slices.Values(need[b])))
		var missing []string
		for _, n := range nodes {
			if seen[n] == nil {
				list, err := d.client().Bridges(ctx, n)
				if err != nil {
					d.failed("bridge "+b, err)
					return
				}
				seen[n] = map[string]bool{}
				for _, br := range list {
					seen[n][br.Name] = true
				}
			}
			if !seen[n][b] {
				missing = append(missing, n)
			}
		}
		d.checkBridge(ctx, b, nodes, missing)
	}
}

func (d *Proxmox) checkBridge(ctx context.Context, bridge string, nodes, missing []string) {
	check := "bridge " + bridge
	if len(missing) == 0 {
		d.ok(check, "on %s", strings.Join(nodes, ", "))
		return
	}
	grant := setup.Want{Bridges: []string{bridge}}.Grants()[1]
	have, err := d.may(ctx, grant.Path)
	if err != nil {
		d.failed(check, err)
		return
	}
	r := Result{Check: check, Status: Failed, Detail: "it is not on " + strings.Join(missing, ", ")}
	if len(without(setup.Privileges(d.version, grant.Role), have)) > 0 && d.Token != "" {
		r.Detail = "the token may not use it"
		r.Run = d.granting(grant.Path)
	} else {
		for _, n := range missing {
			r.Run = append(r.Run, fmt.Sprintf("pvesh create /nodes/%s/network --iface %s --type bridge --autostart 1 && pvesh set /nodes/%[1]s/network", n, bridge))
		}
		r.Do = "or set proxmox_bridge to one that is there"
	}
	d.add(r)
}

// checkVMIDs looks at the range: whether there is room, and whether others use it.
func (d *Proxmox) checkVMIDs(ctx context.Context) {
	rng := d.Backend.VMIDs
	machines, err := d.Backend.List(ctx)
	if err != nil {
		d.failed("vmids", err)
		return
	}
	ours := map[int]bool{}
	for _, m := range machines {
		if id, err := proxmox.VMID(m.Ref); err == nil {
			ours[id] = true
		}
	}
	list, err := d.client().Resources(ctx, "vm")
	if err != nil {
		d.failed("vmids", err)
		return
	}
	used, foreign := map[int]bool{}, []string{}
	for _, r := range list {
		id := int(r.VMID)
		if id < rng.First || id > rng.Last {
			continue
		}
		used[id] = true
		if !ours[id] {
			foreign = append(foreign, fmt.Sprintf("%d (%s)", id, r.Name))
		}
	}
	looked, hidden, err := d.hidden(ctx, used)
	if err != nil {
		d.failed("vmids", err)
		return
	}
	d.reportVMIDs(len(used), foreign, looked, hidden)
}

func (d *Proxmox) reportVMIDs(used int, foreign []string, looked, hidden int) {
	rng := d.Backend.VMIDs
	size := rng.Last - rng.First + 1
	detail := fmt.Sprintf("%v: %d of %d are in use", rng, used, size)
	const another = "set proxmox_vmid_range to ids that only AgentLab uses"
	switch {
	case used+hidden >= size:
		d.add(Result{Check: "vmids", Status: Failed, Detail: detail + ", none is free", Do: "widen proxmox_vmid_range, or destroy machines"})
	case hidden > 0:
		d.add(Result{Check: "vmids", Status: Warning, Detail: fmt.Sprintf("%s, and of %d others %d by machines that the token does not see", detail, looked, hidden), Do: another})
	case len(foreign) > 0:
		d.add(Result{Check: "vmids", Status: Warning, Detail: fmt.Sprintf("%s, some by machines that are not of this installation: %s", detail, strings.Join(foreign[:min(len(foreign), 5)], ", ")), Do: another})
	default:
		d.ok("vmids", "%s", detail)
	}
}

// hidden counts VMIDs that are in use by machines that the token does not see.
// It looks at some only: each is a call.
func (d *Proxmox) hidden(ctx context.Context, used map[int]bool) (looked, hidden int, err error) {
	free := sample(d.Backend.VMIDs, used)
	var count atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(probesAtOnce)
	for _, id := range free {
		g.Go(func() error {
			err := d.client().IDFree(gctx, id)
			if pve.Taken(err, id) {
				count.Add(1)
				return nil
			}
			return err
		})
	}
	err = g.Wait()
	return len(free), int(count.Load()), err
}

// sample returns some IDs of the range that are not used, of a small range all.
func sample(rng proxmox.Range, used map[int]bool) []int {
	size := rng.Last - rng.First + 1
	pick := func(i int) int { return rng.First + i }
	if size > 4*probes {
		size, pick = probes, func(int) int { return rng.First + rand.IntN(rng.Last-rng.First+1) }
	}
	ids := map[int]bool{}
	for i := range size {
		if id := pick(i); !used[id] {
			ids[id] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// checkAgent: without the agent switched on nothing in a guest is reached.
func (d *Proxmox) checkAgent(context.Context) {
	var off []string
	r := Result{Check: "agent", Status: Failed}
	for _, t := range d.templates {
		if !t.Agent && !slices.Contains(off, t.VM.String()) {
			off = append(off, t.VM.String())
			r.Run = append(r.Run, fmt.Sprintf("pvesh set /nodes/%s/qemu/%d/config --agent enabled=1", t.VM.Node, t.VM.ID))
		}
	}
	switch {
	case len(d.templates) == 0:
	case len(off) > 0:
		r.Detail = "switched off in " + strings.Join(off, ", ")
		d.add(r)
	case d.Create:
		d.ok("agent", "switched on in every template")
	default:
		d.ok("agent", "switched on in every template; --create shows whether it answers")
	}
}
