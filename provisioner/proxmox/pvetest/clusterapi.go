package pvetest

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

func clusterRoutes() []*route {
	return []*route{
		{method: "GET", path: "/version", call: getVersion},
		{method: "GET", path: "/nodes/{node}/version", call: getVersion},
		{method: "GET", path: "/nodes", call: listNodes},
		{method: "GET", path: "/nodes/{node}/status", call: nodeStatus, perm: "/nodes/{node} Sys.Audit"},
		{method: "GET", path: "/nodes/{node}/network", call: listBridges,
			params:  "type=enum:bridge/bond/eth/alias/vlan/OVSBridge/OVSBond/OVSPort/OVSIntPort/vnet/any_bridge/any_local_bridge",
			params9: "type=enum:bridge/bond/eth/alias/vlan/fabric/OVSBridge/OVSBond/OVSPort/OVSIntPort/vnet/any_bridge/any_local_bridge/include_sdn"},
		{method: "GET", path: "/cluster/resources", call: listResources, params: "type=enum:vm/storage/node/sdn"},
		{method: "GET", path: "/cluster/status", call: clusterStatus, daemon: true, perm: "/ Sys.Audit"},
		{method: "GET", path: "/cluster/nextid", call: nextID, params: "vmid=vmid"},
		{method: "GET", path: "/cluster/options", call: getOptions},
		{method: "PUT", path: "/cluster/options", call: setOptions, daemon: true, perm: "/ Sys.Modify",
			params: "bwlimit=property consent-text=string,len=65536 console=enum:applet/vv/html5/xtermjs crs=property delete=configid-list" +
				" description=string,len=65536 email_from=email-opt fencing=enum:watchdog/hardware/both ha=property" +
				" http_proxy keyboard=string language=string mac_prefix=string max_workers=int,min=1 migration=property" +
				" migration_unsecure=bool next-id=next-id notify=property registered-tags=string tag-style=tag-style u2f=property" +
				" user-tag-access=tag-access webauthn=property", params9: "replication=property"},
	}
}

func getVersion(c *call) (any, error) {
	v := c.s.version()
	repo := "2606ac850d46da29"
	if c.s.release() >= 900 {
		repo = "14a22df35955d97d"
	}
	return map[string]any{"version": v, "release": v[:strings.LastIndex(v, ".")], "repoid": repo}, nil
}

// nodeEntry has figures only for who may see them.
func (c *call) nodeEntry(n *Node) map[string]any {
	e := map[string]any{"id": "node/" + n.Name, "node": n.Name, "type": "node", "level": "", "status": "online"}
	switch {
	case n.Down:
		e["status"] = "offline"
		return e
	case n.Mute: // PVE/API2Tools.pm extract_node_stats
		e["status"] = "unknown"
		return e
	}
	if c.allowed("/nodes/"+n.Name, "Sys.Audit") {
		mem := int64(1035886592)
		for _, vm := range c.s.c.VMs {
			if vm.Node == n.Name && vm.Running {
				mem += vm.memory()
			}
		}
		e["cpu"], e["maxcpu"], e["mem"], e["maxmem"] = 0.02, n.CPUs, mem, n.Memory
		e["disk"], e["maxdisk"] = int64(32489345024), int64(270553174016)
		e["uptime"] = int(time.Since(c.s.booted).Seconds())
	}
	return e
}

func listNodes(c *call) (any, error) {
	out := []map[string]any{}
	for _, n := range c.s.c.Nodes {
		e := c.nodeEntry(n)
		if l := c.s.listeners[n.Name]; l != nil {
			e["ssl_fingerprint"] = fingerprint(l.cert.Certificate[0])
		} else {
			e["ssl_fingerprint"] = strings.TrimSuffix(strings.Repeat("00:", 32), ":")
		}
		out = append(out, e)
	}
	return out, nil
}

func nodeStatus(c *call) (any, error) {
	n, e := c.node, c.nodeEntry(c.node)
	mem := e["mem"].(int64)
	repo := "2606ac850d46da29"
	return map[string]any{
		"uptime": e["uptime"], "cpu": 0, "wait": 0, "idle": 0, "loadavg": []string{"0.58", "0.59", "1.15"},
		"memory":   map[string]any{"total": n.Memory, "used": mem, "free": n.Memory - mem},
		"swap":     map[string]any{"total": 0, "used": 0, "free": 0},
		"rootfs":   map[string]any{"total": 270553174016, "used": 32489345024, "free": 238063828992, "avail": 65303949312},
		"ksm":      map[string]any{"shared": 0},
		"cpuinfo":  map[string]any{"cpus": n.CPUs, "cores": n.CPUs, "sockets": 1, "model": "AMD EPYC", "mhz": "2445.424", "hvm": "", "user_hz": 100, "flags": "fpu sse2"},
		"kversion": "Linux 6.8.12-1-pve #1 SMP PREEMPT_DYNAMIC", "pveversion": "pve-manager/" + c.s.version() + "/" + repo,
		"boot-info":      map[string]any{"mode": "legacy-bios"},
		"current-kernel": map[string]any{"machine": "x86_64", "sysname": "Linux", "release": "6.8.12-1-pve", "version": "#1 SMP PREEMPT_DYNAMIC"},
	}, nil
}

// listBridges is empty for who may not use a bridge.
func listBridges(c *call) (any, error) {
	out := []map[string]any{}
	for _, b := range c.node.Bridges {
		if c.allowed(bridgePath(b), "SDN.Use", "SDN.Audit") && (c.p.str("type") == "" || strings.Contains(c.p.str("type"), "bridge")) {
			out = append(out, map[string]any{"iface": b, "type": "bridge", "active": 1, "autostart": 1, "method": "static"})
		}
	}
	return out, nil
}

func bridgePath(bridge string) string { return "/sdn/zones/localnetwork/" + bridge }

func clusterStatus(c *call) (any, error) {
	out := []map[string]any{}
	if len(c.s.c.Nodes) > 1 {
		out = append(out, map[string]any{"id": "cluster", "name": "test", "type": "cluster", "nodes": len(c.s.c.Nodes),
			"quorate": number(!c.s.c.NoQuorum), "version": len(c.s.c.Nodes)})
	}
	for i, n := range c.s.c.Nodes {
		id := i + 1
		if len(c.s.c.Nodes) == 1 {
			id = 0
		}
		out = append(out, map[string]any{"id": "node/" + n.Name, "name": n.Name, "type": "node", "level": "", "nodeid": id,
			"ip": "10.77.0." + strconv.Itoa(i+1), "online": number(!n.Down), "local": number(n.Name == c.entry)})
	}
	return out, nil
}

// nextID reserves nothing: who asks at once gets the same.
func nextID(c *call) (any, error) {
	if c.p.has("vmid") {
		if c.s.c.VMs[c.vmid()] != nil {
			return nil, badParam("vmid", "VM %d already exists", c.vmid())
		}
		return c.p.str("vmid"), nil
	}
	lower, upper := 100, 1000000
	if props, ok := splitProperties(c.s.c.Options["next-id"], ""); ok {
		if props.has("lower") {
			lower = props.num("lower")
		}
		if props.has("upper") {
			upper = props.num("upper")
		}
	}
	for id := lower; id < upper; id++ {
		if c.s.c.VMs[id] == nil {
			return strconv.Itoa(id), nil
		}
	}
	return nil, die("unable to get any free VMID in range [%d, %d]", lower, upper)
}

func getOptions(c *call) (any, error) {
	out := map[string]any{"allowed-tags": c.allowedTags()}
	if !c.allowed("/", "Sys.Audit") {
		return out, nil
	}
	out["mac_prefix"], out["description"] = "BC:24:11", ""
	for k, v := range c.s.c.Options {
		f, structured := map[string]string{"next-id": "next-id", "user-tag-access": "tag-access", "tag-style": "tag-style"}[k]
		if props, ok := splitProperties(v, ""); ok && structured {
			obj := map[string]any{}
			for pk, pv := range props {
				obj[pk] = jsonValue(propertyFormats[f].props[pk], pv.(string))
			}
			out[k] = obj
			continue
		}
		out[k] = v
	}
	return out, nil
}

func setOptions(c *call) (any, error) {
	for _, k := range c.p.list("delete") {
		delete(c.s.c.Options, k)
	}
	for k, v := range c.p {
		if s, ok := v.(string); ok && k != "delete" {
			c.s.c.Options[k] = s
		}
	}
	return nil, nil
}

// statsView is what pvestatd broadcast last.
type statsView struct {
	taken time.Time
	vms   map[int]map[string]any
}

// stats refreshes the view when a new cycle of pvestatd has begun. VMs born
// since the cycle began are not in it.
func (s *Server) stats() map[int]map[string]any {
	cycle := s.Staleness
	if cycle == 0 {
		cycle = s.scaled(10 * time.Second)
	}
	now := time.Now()
	begun := now
	if cycle > 0 {
		begun = now.Add(-now.Sub(s.booted) % cycle)
	}
	if s.snapshot.vms != nil && !s.snapshot.taken.Before(begun) && cycle > 0 {
		return s.snapshot.vms
	}
	s.snapshot = statsView{now, make(map[int]map[string]any, len(s.c.VMs))}
	for id, vm := range s.c.VMs {
		if cycle < 0 || !vm.born.After(begun) {
			s.snapshot.vms[id] = s.vmStats(vm)
		}
	}
	return s.snapshot.vms
}

func (s *Server) vmStats(vm *VM) map[string]any {
	e := map[string]any{
		"id": "qemu/" + strconv.Itoa(vm.ID), "vmid": vm.ID, "type": "qemu", "node": vm.Node, "name": vm.name(), "status": vm.status(),
		"template": number(vm.template()), "maxcpu": vm.cores(), "maxmem": vm.memory(), "maxdisk": vm.bootSize(),
		"cpu": 0, "mem": 0, "disk": 0, "diskread": 0, "diskwrite": 0, "netin": 0, "netout": 0, "uptime": vm.uptime(),
	}
	if t := vm.Config["tags"]; t != "" {
		e["tags"] = t
	}
	return e
}

// listResources is as old as pvestatd's last cycle: a new VM has the status
// unknown and no name, one that was destroyed is not listed (measured).
func listResources(c *call) (any, error) {
	typ := c.p.str("type")
	all := typ == ""
	out := []map[string]any{}
	if all || typ == "pool" {
		for _, id := range slices.Sorted(maps.Keys(c.s.c.Pools)) {
			if c.allowed("/pool/"+id, "Pool.Audit") {
				out = append(out, map[string]any{"id": "/pool/" + id, "pool": id, "type": "pool"})
			}
		}
	}
	if all || typ == "vm" {
		out = append(out, c.vmResources()...)
	}
	if all || typ == "node" {
		for _, n := range c.s.c.Nodes {
			e := c.nodeEntry(n)
			if !n.Down {
				e["cgroup-mode"] = 2
			}
			out = append(out, e)
		}
	}
	if all || typ == "storage" {
		out = append(out, c.storageResources()...)
	}
	if all || typ == "sdn" {
		for _, n := range c.s.c.Nodes {
			if c.allowed("/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use") {
				out = append(out, map[string]any{"id": "sdn/" + n.Name + "/localnetwork", "sdn": "localnetwork", "node": n.Name, "type": "sdn", "status": "ok"})
			}
		}
	}
	return out, nil
}

func (c *call) vmResources() []map[string]any {
	stats := c.s.stats()
	pools := map[int]string{}
	for id, p := range c.s.c.Pools {
		for vm := range p.VMs {
			pools[vm] = id
		}
	}
	out := make([]map[string]any, 0, len(stats))
	for _, id := range slices.Sorted(maps.Keys(c.s.c.VMs)) {
		vm := c.s.c.VMs[id]
		if !c.allowed("/vms/"+strconv.Itoa(id), "VM.Audit") {
			continue
		}
		e := maps.Clone(stats[id])
		n := c.s.c.node(vm.Node)
		if e == nil || n != nil && n.Mute {
			e = map[string]any{"id": "qemu/" + strconv.Itoa(id), "vmid": id, "type": "qemu", "node": vm.Node, "status": "unknown"}
			if t := vm.Config["tags"]; t != "" {
				e["tags"] = t
			}
		}
		if n != nil && n.Down {
			e["status"] = "unknown"
		}
		if pools[id] != "" {
			e["pool"] = pools[id]
		}
		if l := vm.Config["lock"]; l != "" {
			e["lock"] = l
		}
		out = append(out, e)
	}
	return out
}

// allowedTags are what the caller may set: those of the list, those in use on
// VMs that he sees, and the registered ones for who may change the options of
// the data center, as the mode has it (pve-guest-common get_allowed_tags).
func (c *call) allowedTags() []string {
	tags := map[string]bool{}
	access, _ := splitProperties(c.s.c.Options["user-tag-access"], "")
	mode, admin := access.str("user-allow"), c.allowed("/", "Sys.Modify")
	if mode != "none" || admin {
		for _, t := range splitList(access.str("user-allow-list")) {
			tags[t] = true
		}
	}
	for id, vm := range c.s.c.VMs {
		if mode != "" && mode != "free" && mode != "existing" && !admin {
			break
		}
		if vm.Config["tags"] != "" && c.allowed("/vms/"+strconv.Itoa(id), "VM.Audit") {
			for _, t := range splitList(vm.Config["tags"]) {
				tags[t] = true
			}
		}
	}
	for _, t := range splitList(c.s.c.Options["registered-tags"]) {
		if tags[t] = true; !admin {
			delete(tags, t)
		}
	}
	return append([]string{}, slices.Sorted(maps.Keys(tags))...)
}

// round15 keeps the fractions of sizes readable.
func round15(f float64) float64 { return math.Round(f*1e15) / 1e15 }
