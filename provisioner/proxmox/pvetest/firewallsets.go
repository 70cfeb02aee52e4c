package pvetest

import (
	"maps"
	"slices"
	"strings"
)

const fwName = "name=word,len=64,least=2"

func (sc fwScope) setRoutes() []*route {
	sets, set, one := sc.base+"/ipset", sc.base+"/ipset/{name}", sc.base+"/ipset/{name}/{cidr}"
	const cidr = fwName + " cidr!=fw-member "
	return []*route{
		{method: "GET", path: sets, call: sc.listSets, perm: sc.audit},
		{method: "POST", path: sets, call: sc.addSet, daemon: true, perm: sc.modify,
			params: "name!=word,len=64,least=2 rename=word,len=64,least=2 comment digest=string,len=64"},
		{method: "GET", path: set, call: sc.listMembers, perm: sc.audit, params: fwName},
		{method: "POST", path: set, call: sc.addMember, daemon: true, perm: sc.modify, params: cidr + "comment nomatch=bool"},
		{method: "DELETE", path: set, call: sc.deleteSet, daemon: true, perm: sc.modify, params: fwName + " force=bool"},
		{method: "GET", path: one, call: sc.getMember, daemon: true, perm: sc.audit, params: cidr},
		{method: "PUT", path: one, call: sc.editMember, daemon: true, perm: sc.modify, params: cidr + "comment digest=string,len=64 nomatch=bool"},
		{method: "DELETE", path: one, call: sc.deleteMember, daemon: true, perm: sc.modify, params: cidr + "digest=string,len=64"},
	}
}

// namedList are sets or groups as a list, key being what a name is called there.
func namedList(sets map[string]*fwSet, key string) []fwEntry {
	var out []fwEntry
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		e := fwEntry{values: map[string]string{key: name}}
		if c := sets[name].comment; written(c) {
			e.values["comment"] = c
		}
		out = append(out, e)
	}
	return out
}

// addNamed makes a set or a group, or gives one another name or comment. kind
// and key are what messages call it.
func (c *call) addNamed(sets map[string]*fwSet, kind, key string) error {
	name, old := c.p.str(key), c.p.str("rename")
	if old == "" {
		if sets[name] != nil {
			return badParam(key, "%s '%s' already exists", kind, name)
		}
		sets[name] = &fwSet{comment: c.p.str("comment")}
		return nil
	}
	if err := c.unmodified(namedList(sets, key)...); err != nil {
		return err
	}
	switch {
	case sets[old] == nil:
		return badParam(key, "%s '%s' does not exist", kind, old)
	case sets[name] != nil && name != old:
		return badParam(key, "%s '%s' does already exist", kind, name)
	}
	set := sets[old]
	delete(sets, old)
	sets[name] = set
	if c.p.has("comment") {
		set.comment = c.p.str("comment")
	}
	return nil
}

func (sc fwScope) listSets(c *call) (any, error) {
	return fwList(namedList(sc.load(c).sets, "name")), nil
}

func (sc fwScope) addSet(c *call) (any, error) {
	f := sc.load(c)
	if err := c.addNamed(f.sets, "IPSet", "name"); err != nil {
		return nil, err
	}
	sc.save(c, f)
	return nil, nil
}

func (sc fwScope) set(c *call) (*fwFile, *fwSet, error) {
	f := sc.load(c)
	s := f.sets[c.p.str("name")]
	if s == nil {
		return nil, nil, die("no such IPSet '%s'", c.p.str("name"))
	}
	return f, s, nil
}

// deleteSet does not mind rules that name the set.
func (sc fwScope) deleteSet(c *call) (any, error) {
	f, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	if len(s.list) > 0 && !c.p.flag("force") {
		return nil, die("IPSet '%s' is not empty", c.p.str("name"))
	}
	delete(f.sets, c.p.str("name"))
	sc.save(c, f)
	return nil, nil
}

func (sc fwScope) listMembers(c *call) (any, error) {
	_, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	return fwList(s.list), nil
}

func (sc fwScope) addMember(c *call) (any, error) {
	f, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	cidr := c.p.str("cidr")
	if scope, alias, ok := cutAlias(cidr); ok {
		if _, err := resolveAlias(c.s.c.firewall("cluster"), f, scope, alias); err != nil {
			return nil, err
		}
	} else {
		cidr = cleanCIDR(cidr)
	}
	if slices.ContainsFunc(s.list, func(e fwEntry) bool { return e.get("cidr") == cidr }) {
		return nil, badParam("cidr", "address '%s' already exists", cidr)
	}
	if zeroPrefix.MatchString(cidr) {
		return nil, badParam("cidr", "a zero prefix is not allowed in ipset entries")
	}
	e := fwEntry{values: map[string]string{"cidr": cidr}}
	e.describe(c.p)
	s.list = slices.Insert(s.list, 0, e)
	sc.save(c, f)
	return nil, nil
}

// describe sets what a member of a set has besides its address.
func (e fwEntry) describe(p params) {
	delete(e.values, "nomatch")
	delete(e.values, "comment")
	if p.flag("nomatch") {
		e.values["nomatch"] = "1"
	}
	if p.has("comment") {
		e.values["comment"] = p.str("comment")
	}
}

// member finds the entry of a set by exactly what it is called there.
func (s *fwSet) member(c *call) (int, error) {
	i := slices.IndexFunc(s.list, func(e fwEntry) bool { return e.get("cidr") == c.p.str("cidr") })
	if i < 0 {
		return 0, badParam("cidr", "no such IP/Network")
	}
	return i, nil
}

func (sc fwScope) getMember(c *call) (any, error) {
	_, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	i, err := s.member(c)
	if err != nil {
		return nil, err
	}
	return fwList(s.list)[i], nil
}

func (sc fwScope) editMember(c *call) (any, error) {
	f, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	if err := c.unmodified(s.list...); err != nil {
		return nil, err
	}
	i, err := s.member(c)
	if err != nil {
		return nil, err
	}
	s.list[i].describe(c.p)
	sc.save(c, f)
	return nil, nil
}

// deleteMember does not mind if there is none.
func (sc fwScope) deleteMember(c *call) (any, error) {
	f, s, err := sc.set(c)
	if err != nil {
		return nil, err
	}
	if err := c.unmodified(s.list...); err != nil {
		return nil, err
	}
	s.list = slices.DeleteFunc(s.list, func(e fwEntry) bool { return e.get("cidr") == c.p.str("cidr") })
	sc.save(c, f)
	return nil, nil
}

func (sc fwScope) aliasRoutes() []*route {
	all, one := sc.base+"/aliases", sc.base+"/aliases/{name}"
	return []*route{
		{method: "GET", path: all, call: sc.listAliases, perm: sc.audit},
		{method: "POST", path: all, call: sc.addAlias, daemon: true, perm: sc.modify, params: "name!=word,len=64,least=2 cidr!=fw-cidr comment"},
		{method: "GET", path: one, call: sc.getAlias, perm: sc.audit, params: fwName},
		{method: "PUT", path: one, call: sc.editAlias, daemon: true, perm: sc.modify,
			params: fwName + " cidr!=fw-cidr comment digest=string,len=64 rename=word,len=64,least=2"},
		{method: "DELETE", path: one, call: sc.deleteAlias, daemon: true, perm: sc.modify, params: fwName + " digest=string,len=64"},
	}
}

func (f *fwFile) aliasList() []fwEntry {
	var out []fwEntry
	for _, name := range slices.Sorted(maps.Keys(f.aliases)) {
		out = append(out, f.aliases[name])
	}
	return out
}

func (sc fwScope) listAliases(c *call) (any, error) { return fwList(sc.load(c).aliasList()), nil }

// alias is what a call makes of its parameters. The network is stored as it
// was given.
func (c *call) alias(name string) fwEntry {
	a := fwEntry{values: map[string]string{"name": name, "cidr": c.p.str("cidr")}}
	if c.p.has("comment") {
		a.values["comment"] = c.p.str("comment")
	}
	return a
}

func (sc fwScope) addAlias(c *call) (any, error) {
	f, name := sc.load(c), c.p.str("name")
	if _, ok := f.aliases[strings.ToLower(name)]; ok {
		return nil, badParam("name", "alias '%s' already exists", name)
	}
	f.aliases[strings.ToLower(name)] = c.alias(name)
	sc.save(c, f)
	return nil, nil
}

func (sc fwScope) getAlias(c *call) (any, error) {
	a, ok := sc.load(c).aliases[strings.ToLower(c.p.str("name"))]
	if !ok {
		return nil, badParam("name", "no such alias")
	}
	return a.json(), nil
}

func (sc fwScope) editAlias(c *call) (any, error) {
	f, name := sc.load(c), strings.ToLower(c.p.str("name"))
	if err := c.unmodified(f.aliasList()...); err != nil {
		return nil, err
	}
	if _, ok := f.aliases[name]; !ok {
		return nil, badParam("name", "no such alias")
	}
	a, rename := c.alias(c.p.str("name")), strings.ToLower(c.p.str("rename"))
	if rename != "" && rename != name {
		if _, ok := f.aliases[rename]; ok {
			return nil, badParam("name", "alias '%s' already exists", c.p.str("rename"))
		}
		delete(f.aliases, name)
		a, name = c.alias(c.p.str("rename")), rename
	}
	f.aliases[name] = a
	sc.save(c, f)
	return nil, nil
}

// deleteAlias does not mind rules that name the alias, nor if there is none.
func (sc fwScope) deleteAlias(c *call) (any, error) {
	f := sc.load(c)
	if err := c.unmodified(f.aliasList()...); err != nil {
		return nil, err
	}
	delete(f.aliases, strings.ToLower(c.p.str("name")))
	sc.save(c, f)
	return nil, nil
}

func groupRoutes() []*route {
	const base = "/cluster/firewall/groups"
	return append([]*route{
		{method: "GET", path: base, call: listGroups},
		{method: "POST", path: base, call: addGroup, daemon: true, perm: fwGroup.modify,
			params: "group!=word,len=18,least=2 rename=word,len=18,least=2 comment digest=string,len=64"},
		{method: "DELETE", path: fwGroup.base, call: deleteGroup, daemon: true, perm: fwGroup.modify, params: "group=word,len=18,least=2"},
	}, fwGroup.ruleRoutes(fwGroup.base)...)
}

func listGroups(c *call) (any, error) {
	return fwList(namedList(fwGroup.load(c).groups, "group")), nil
}

// addGroup also renames, in the rules of all nodes and of all VMs there are.
func addGroup(c *call) (any, error) {
	f, old, name := fwGroup.load(c), c.p.str("rename"), c.p.str("group")
	if err := c.addNamed(f.groups, "Security group", "group"); err != nil {
		return nil, err
	}
	if old != "" && old != name {
		renameGroup(f.rules, old, name)
	}
	fwGroup.save(c, f)
	if old == "" || old == name {
		return nil, nil
	}
	for file := range maps.Clone(c.s.c.Firewall) {
		vm := c.s.c.VMs[params{"id": file}.num("id")]
		if vm == nil && !strings.HasPrefix(file, "host/") {
			continue
		}
		f := c.s.c.firewall(file)
		renameGroup(f.rules, old, name)
		c.s.c.saveFirewall(file, f)
	}
	return nil, nil
}

func renameGroup(rules []fwEntry, old, name string) {
	for _, r := range rules {
		if r.get("type") == "group" && r.get("action") == old {
			r.values["action"] = name
		}
	}
}

// deleteGroup does not mind rules that name the group: they do nothing then,
// and nothing tells of it (measured).
func deleteGroup(c *call) (any, error) {
	f := fwGroup.load(c)
	rules, err := fwGroup.rules(c, f)
	if err != nil {
		return nil, err
	}
	if len(*rules) > 0 {
		return nil, die("Security group '%s' is not empty", c.p.str("group"))
	}
	delete(f.groups, c.p.str("group"))
	fwGroup.save(c, f)
	return nil, nil
}
