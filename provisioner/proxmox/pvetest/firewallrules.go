package pvetest

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

const fwRuleParams = " comment dest=fw-addr,len=512 digest=string,len=64 dport=fw-dport enable=int,min=0 icmp-type=fw-icmp" +
	" iface=iface,len=20,least=2 log=" + fwLevels + " macro=string,len=128 pos=int,min=0 proto=fw-proto source=fw-addr,len=512 sport=fw-sport"

// fwRuleParts are what a rule consists of; pos and digest, which Firewall.pm
// has among them, never reach the file.
var fwRuleParts = strings.Fields("type action comment dest dport enable icmp-type iface log macro proto source sport")

func (sc fwScope) ruleRoutes(base string) []*route {
	group := ""
	if sc.env == "group" {
		group = " group=word,len=18,least=2"
	}
	const typ = "=enum:in/out/forward/group"
	one := base + "/{pos}"
	return []*route{
		{method: "GET", path: base, call: sc.listRules, perm: sc.audit, params: group},
		{method: "POST", path: base, call: sc.addRule, daemon: true, perm: sc.modify, params: group + fwRuleParams + " type!" + typ + " action!=word,len=20,least=2"},
		{method: "GET", path: one, call: sc.getRule, perm: sc.audit, params: group + " pos=int,min=0"},
		{method: "PUT", path: one, call: sc.editRule, daemon: true, perm: sc.modify,
			params: group + fwRuleParams + " type" + typ + " action=word,len=20,least=2 moveto=int,min=0 delete=configid-list"},
		{method: "DELETE", path: one, call: sc.deleteRule, daemon: true, perm: sc.modify, params: group + " pos=int,min=0 digest=string,len=64"},
	}
}

// rules finds the list a call is about in its file.
func (sc fwScope) rules(c *call, f *fwFile) (*[]fwEntry, error) {
	if sc.env != "group" {
		return &f.rules, nil
	}
	g := f.groups[c.p.str("group")]
	if g == nil {
		return nil, die("no such security group '%s'", c.p.str("group"))
	}
	return &g.list, nil
}

func (sc fwScope) listRules(c *call) (any, error) {
	rules, err := sc.rules(c, sc.load(c))
	if err != nil {
		return nil, err
	}
	out := fwList(*rules)
	for i := range out {
		out[i]["pos"] = i
	}
	return out, nil
}

// getRule gives the position as it was asked for, a string (measured).
func (sc fwScope) getRule(c *call) (any, error) {
	rules, err := sc.rules(c, sc.load(c))
	if err != nil {
		return nil, err
	}
	if err := c.ruleThere(*rules); err != nil {
		return nil, err
	}
	out := fwList(*rules)[c.p.num("pos")]
	out["pos"] = c.p.str("pos")
	return out, nil
}

func (c *call) ruleThere(rules []fwEntry) error {
	if c.p.num("pos") >= len(rules) {
		return die("no rule at position %s", c.p.str("pos"))
	}
	return nil
}

// addRule puts the rule on top, whatever position was asked for, and switched
// off unless that was asked for. The digest is not looked at.
func (sc fwScope) addRule(c *call) (any, error) {
	f := sc.load(c)
	rules, err := sc.rules(c, f)
	if err != nil {
		return nil, err
	}
	r := fwEntry{values: map[string]string{"enable": "0"}}
	r.take(c.p)
	if err := sc.verify(c, r, f); err != nil {
		return nil, err
	}
	*rules = slices.Insert(*rules, 0, r)
	sc.save(c, f)
	return nil, nil
}

// take sets the parts of a rule that a call names; nothing and "-" delete.
func (e fwEntry) take(p params) {
	for _, k := range fwRuleParts {
		switch v := p.str(k); {
		case !p.has(k):
		case v == "" || v == "-":
			delete(e.values, k)
		default:
			e.values[k] = v
		}
	}
}

// editRule changes or moves a rule; when it is moved all else is ignored.
func (sc fwScope) editRule(c *call) (any, error) {
	f := sc.load(c)
	rules, err := sc.changeable(c, f)
	if err != nil {
		return nil, err
	}
	pos := c.p.num("pos")
	if to := c.p.num("moveto"); c.p.has("moveto") && to != pos {
		*rules = moveRule(*rules, pos, to)
		sc.save(c, f)
		return nil, nil
	}
	r := fwEntry{values: maps.Clone((*rules)[pos].values)}
	delete(r.values, "ipversion")
	r.take(c.p)
	for _, k := range c.p.list("delete") {
		switch {
		case k == "type" || k == "action":
			return nil, badParam("delete", "unable to delete required property '%s'", k)
		case k != "pos" && k != "digest" && !slices.Contains(fwRuleParts, k):
			return nil, badParam("delete", "no such property ('%s')", k)
		}
		delete(r.values, k)
	}
	if err := sc.verify(c, r, f); err != nil {
		return nil, err
	}
	(*rules)[pos] = r
	sc.save(c, f)
	return nil, nil
}

// moveRule puts a rule before the one that is at position to, so that one that
// is moved down ends at to-1 (measured).
func moveRule(rules []fwEntry, from, to int) []fwEntry {
	var out []fwEntry
	for i, r := range rules {
		if i == from {
			continue
		}
		if i == to {
			out = append(out, rules[from])
		}
		out = append(out, r)
	}
	if to >= len(rules) {
		out = append(out, rules[from])
	}
	return out
}

func (sc fwScope) deleteRule(c *call) (any, error) {
	f := sc.load(c)
	rules, err := sc.changeable(c, f)
	if err != nil {
		return nil, err
	}
	*rules = slices.Delete(*rules, c.p.num("pos"), c.p.num("pos")+1)
	sc.save(c, f)
	return nil, nil
}

// changeable finds the rules if the digest fits and the position is one.
func (sc fwScope) changeable(c *call, f *fwFile) (*[]fwEntry, error) {
	rules, err := sc.rules(c, f)
	if err != nil {
		return nil, err
	}
	if err := c.unmodified(*rules...); err != nil {
		return nil, err
	}
	return rules, c.ruleThere(*rules)
}

// verify refuses a rule for the first thing that is wrong with it.
func (sc fwScope) verify(c *call, r fwEntry, f *fwFile) error {
	v := &ruleCheck{rule: r, env: sc.env, cluster: c.s.c.firewall("cluster"), own: f}
	v.run()
	switch {
	case len(v.found) > 0:
		return badParam(v.found[0].param, "%s", v.found[0].message)
	case v.died != nil:
		return v.died
	}
	return nil
}

// ruleCheck is Firewall.pm verify_rule.
type ruleCheck struct {
	rule         fwEntry
	env          string
	cluster, own *fwFile
	version      string // of IP, once something in the rule tells it
	found        []fwError
	died         *apiError // the check ended there
}

type fwError struct{ param, message string }

func (v *ruleCheck) fail(param, message string) {
	if message != "" && v.died == nil {
		v.found = append(v.found, fwError{param, message})
	}
}

// require is fail unless ok.
func (v *ruleCheck) require(ok bool, param, message string) {
	if !ok {
		v.fail(param, message)
	}
}

// fwTypes are the rules that may stand where.
var fwTypes = map[string]string{"vm": "in out group", "group": "in out forward", "cluster": "in out forward group", "host": "in out forward group"}

func (v *ruleCheck) run() {
	r := v.rule
	v.kind(r.get("type"), r.get("action"))
	if iface := r.get("iface"); written(iface) {
		v.require(v.env != "group", "type", "parameter -i not allowed for this rule type")
		v.fail("iface", checkFormat("iface", "iface", iface))
		v.require(v.env != "vm" || netKey.MatchString(iface), "iface", `value does not match the regex pattern 'net\d+'`)
	}
	if m := r.get("macro"); written(m) {
		if name := macroName(m); name != "" {
			r.values["macro"] = name
		} else {
			v.fail("macro", "unknown macro '"+m+"'")
		}
	}
	v.proto(r.get("proto"))
	v.ports("dport", isICMP(r.get("proto")))
	v.icmpType(r.get("icmp-type"), r.get("proto"))
	v.ports("sport", false)
	v.address("source")
	v.address("dest")
	if v.version != "" {
		r.values["ipversion"] = v.version
	}
	if m := r.get("macro"); written(m) && len(v.found) == 0 && v.died == nil {
		v.macro(m)
	}
}

func (v *ruleCheck) kind(typ, action string) {
	v.require(typ != "", "type", "missing property")
	v.require(action != "", "action", "missing property")
	if typ == "" {
		return
	}
	v.require(slices.Contains(strings.Fields(fwTypes[v.env]), typ), "type", "invalid rule type '"+typ+"' for rule_env '"+v.env+"'")
	switch typ {
	case "group":
		v.require(v.env != "group", "type", "security groups not allowed")
		v.require(action == "" || fwWord.MatchString(action), "action", "invalid characters in security group name")
	case "in", "out", "forward":
		v.require(typ != "forward" || action != "REJECT", "action", "cannot define REJECT rules on forward chain")
		v.require(action == "" || fwAction.MatchString(action), "action", "unknown action '"+action+"'")
	default:
		v.fail("type", "unknown rule type '"+typ+"'")
	}
}

var fwAction = regexp.MustCompile(`^(ACCEPT|DROP|REJECT)$`)

func (v *ruleCheck) proto(proto string) {
	if !written(proto) {
		return
	}
	v.fail("proto", checkProto(proto))
	switch proto {
	case "icmp":
		v.version = "4"
	case "icmpv6", "ipv6-icmp":
		v.version = "6"
	}
}

func isICMP(proto string) bool { return proto == "icmp" || proto == "icmpv6" || proto == "ipv6-icmp" }

func (v *ruleCheck) ports(key string, icmp bool) {
	ports, proto := v.rule.get(key), v.rule.get("proto")
	if !written(ports) {
		return
	}
	v.fail(key, checkPorts(ports, icmp))
	v.require(written(proto), "proto", "missing property - '"+key+"' requires this property")
	v.require(slices.Contains(fwPortProtos, proto) || icmp, key, "protocol '"+proto+"' does not support ports")
}

// fwPortProtos are the protocols that have ports, by name and number.
var fwPortProtos = strings.Fields("udp 17 udplite 136 tcp 6 dccp 33 sctp 132")

func (v *ruleCheck) icmpType(typ, proto string) {
	if !written(typ) {
		return
	}
	v.require(isICMP(proto), "proto", "missing property - 'icmp-type' requires this property")
	v.require(!written(v.rule.get("dport")), "icmp-type", "'icmp-type' cannot be specified together with 'dport'")
	names := fwICMP6
	if proto == "icmp" {
		names = fwICMP
	}
	v.require(!isICMP(proto) || slices.Contains(names, typ), "icmp-type", "invalid icmp-type '"+typ+"' for proto '"+proto+"'")
}

const mixedRule = "detected mixed ipv4/ipv6 addresses in rule"

func (v *ruleCheck) address(key string) {
	addr := v.rule.get(key)
	if !written(addr) {
		return
	}
	version, msg := addressList(addr)
	switch {
	case msg != "":
		v.fail(key, msg)
	case version != "" && v.version != "" && version != v.version:
		v.fail(key, mixedRule)
	case version != "":
		v.version = version
	}
	if set, ok := strings.CutPrefix(addr, "+"); ok {
		v.set(key, set)
	} else if scope, alias, ok := cutAlias(addr); ok {
		v.alias(key, addr, scope, alias)
	}
}

// set and alias look for the name in both files, whatever scope stands before
// it: dc/gate is right if only the guest has a gate (measured).
func (v *ruleCheck) set(key, ref string) {
	name := ref
	for _, scope := range []string{"guest/", "dc/", "sdn/"} {
		name = strings.TrimPrefix(name, scope)
	}
	if !fwWord.MatchString(name) {
		v.fail(key, "invalid ipset name '+"+ref+"'")
		return
	}
	v.require(v.cluster.sets[name] != nil || v.own != nil && v.own.sets[name] != nil, key, "no such ipset '"+name+"'")
}

func (v *ruleCheck) alias(key, ref, scope, alias string) {
	alias = strings.ToLower(alias)
	_, there := v.cluster.aliases[alias]
	if v.own != nil {
		_, mine := v.own.aliases[alias]
		there = there || mine
	}
	v.require(there, key, "no such alias '"+ref+"'")
	a, err := resolveAlias(v.cluster, v.own, scope, alias)
	if err != nil {
		return
	}
	if version := a.get("ipversion"); v.version != "" && version != v.version && v.died == nil {
		v.died = die(mixedRule) // not caught there
		return
	}
	v.version = a.get("ipversion")
}
