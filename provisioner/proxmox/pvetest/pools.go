package pvetest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

func poolRoutes() []*route {
	const edit = "comment storage=storage-id-list vms=vmid-list delete=bool allow-move=bool"
	return []*route{
		{method: "GET", path: "/pools", call: listPools, params: "poolid=poolid type=enum:qemu/lxc/storage,needs=poolid"},
		{method: "POST", path: "/pools", call: addPool, daemon: true, perm: "/pool/{poolid} Pool.Allocate", params: "poolid!=poolid comment"},
		{method: "PUT", path: "/pools", call: editPool, daemon: true, perm: "/pool/{poolid} Pool.Allocate", params: "poolid!=poolid " + edit},
		{method: "DELETE", path: "/pools", call: deletePool, daemon: true, perm: "/pool/{poolid} Pool.Allocate", params: "poolid!=poolid"},
		{method: "GET", path: "/pools/{poolid}", call: getPool, perm: "/pool/{poolid} Pool.Audit", params: "type=enum:qemu/lxc/storage"},
		{method: "PUT", path: "/pools/{poolid}", call: editPool, daemon: true, perm: "/pool/{poolid} Pool.Allocate", params: edit},
		{method: "DELETE", path: "/pools/{poolid}", call: deletePool, daemon: true, perm: "/pool/{poolid} Pool.Allocate"},
	}
}

func listPools(c *call) (any, error) {
	if c.p.has("poolid") {
		if err := c.permitted("/pool/{poolid} Pool.Audit"); err != nil {
			return nil, err
		}
		data, err := getPool(c)
		if err != nil {
			return nil, err
		}
		pool := data.(map[string]any)
		pool["poolid"] = c.p.str("poolid")
		return []any{pool}, nil
	}
	out := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(c.s.c.Pools)) {
		if c.allowed("/pool/"+id, "Pool.Audit") {
			e := map[string]any{"poolid": id}
			if text := c.s.c.Pools[id].Comment; text != "" {
				e["comment"] = text
			}
			out = append(out, e)
		}
	}
	return out, nil
}

func getPool(c *call) (any, error) {
	id := c.p.str("poolid")
	pool := c.s.c.Pools[id]
	if pool == nil {
		return nil, die("pool '%s' does not exist", id)
	}
	members := []map[string]any{}
	for _, e := range c.vmResources() {
		if !pool.VMs[e["vmid"].(int)] {
			continue
		}
		delete(e, "pool")
		delete(e, "tags")
		members = append(members, e)
	}
	for _, e := range c.storageResources() {
		if pool.Storages[e["storage"].(string)] {
			members = append(members, e)
		}
	}
	if typ := c.p.str("type"); typ != "" {
		members = slices.DeleteFunc(members, func(e map[string]any) bool { return e["type"] != typ })
	}
	out := map[string]any{"poolid": id, "members": members}
	if pool.Comment != "" {
		out["comment"] = pool.Comment
	}
	return out, nil
}

func addPool(c *call) (any, error) {
	id := c.p.str("poolid")
	if c.s.c.Pools[id] != nil {
		return nil, die("create pool failed: pool '%s' already exists", id)
	}
	if i := strings.LastIndex(id, "/"); i >= 0 && c.s.c.Pools[id[:i]] == nil {
		return nil, die("create pool failed: parent '%s' of pool '%s' does not exist", id[:i], id)
	}
	c.s.c.Pools[id] = &Pool{Comment: c.p.str("comment"), VMs: map[int]bool{}}
	return nil, nil
}

func editPool(c *call) (any, error) {
	id := c.p.str("poolid")
	pool := c.s.c.Pools[id]
	if pool == nil {
		return nil, die("update pools failed: pool '%s' does not exist", id)
	}
	for _, v := range c.p.list("vms") {
		vmid, _ := strconv.Atoi(v)
		if err := c.check("/vms/"+v, "VM.Allocate"); err != nil {
			return nil, die("update pools failed: %v", err)
		}
		other := c.s.c.poolOf(vmid)
		switch {
		case c.p.flag("delete") && !pool.VMs[vmid]:
			return nil, die("update pools failed: VM %d is not a pool member", vmid)
		case c.p.flag("delete"):
			delete(pool.VMs, vmid)
			continue
		case other == id:
			return nil, die("update pools failed: VM %d is already a pool member", vmid)
		case other != "" && !c.p.flag("allow-move"):
			return nil, die("update pools failed: VM %d belongs already to pool '%s' and 'allow-move' is not set", vmid, other)
		case other != "":
			delete(c.s.c.Pools[other].VMs, vmid)
		}
		pool.VMs[vmid] = true
	}
	if err := c.editPoolStorages(pool); err != nil {
		return nil, err
	}
	if c.p.has("comment") {
		pool.Comment = c.p.str("comment")
	}
	return nil, nil
}

func (c *call) editPoolStorages(pool *Pool) error {
	for _, id := range c.p.list("storage") {
		if err := c.check("/storage/"+id, "Datastore.Allocate"); err != nil {
			return die("update pools failed: %v", err)
		}
		switch {
		case c.p.flag("delete") && !pool.Storages[id]:
			return die("update pools failed: Storage '%s' is not a pool member", id)
		case c.p.flag("delete"):
			delete(pool.Storages, id)
			continue
		case pool.Storages[id]:
			return die("update pools failed: Storage '%s' is already a pool member", id)
		case pool.Storages == nil:
			pool.Storages = map[string]bool{}
		}
		pool.Storages[id] = true
	}
	return nil
}

func deletePool(c *call) (any, error) {
	id := c.p.str("poolid")
	pool := c.s.c.Pools[id]
	if pool == nil {
		return nil, die("delete pool failed: pool '%s' does not exist", id)
	}
	for _, child := range slices.Sorted(maps.Keys(c.s.c.Pools)) {
		if strings.HasPrefix(child, id+"/") {
			return nil, die("delete pool failed: pool '%s' is not empty (contains pool '%s')", id, child)
		}
	}
	for _, vmid := range slices.Sorted(maps.Keys(pool.VMs)) {
		return nil, die("delete pool failed: pool '%s' is not empty (contains VM %d)", id, vmid)
	}
	for _, store := range slices.Sorted(maps.Keys(pool.Storages)) {
		return nil, die("delete pool failed: pool '%s' is not empty (contains storage '%s')", id, store)
	}
	delete(c.s.c.Pools, id)
	return nil, nil
}
