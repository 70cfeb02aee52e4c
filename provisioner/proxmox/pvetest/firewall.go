package pvetest

import (
	"crypto/sha1" //nolint:gosec // PVE's digest is SHA-1
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fwScope is a set of firewall calls: those of a VM, of a node, of the
// cluster, and of a security group, which has only rules. What they share, and
// every behaviour below that was not recorded, was read from pve-firewall's
// API2/Firewall/*.pm and Firewall.pm.
//
// Whether there is such a VM nobody asks: a file is written for any VMID, and
// one who is born later inherits it (measured).
type fwScope struct {
	env           string // what Firewall.pm calls the rule_env
	base          string
	audit, modify string // permissions
}

var (
	fwCluster = fwScope{"cluster", "/cluster/firewall", "/ Sys.Audit", "/ Sys.Modify"}
	fwHost    = fwScope{"host", "/nodes/{node}/firewall", "/nodes/{node} Sys.Audit", "/nodes/{node} Sys.Modify"}
	fwVM      = fwScope{"vm", vmPath + "/firewall", "/vms/{vmid} VM.Audit", "/vms/{vmid} VM.Config.Network"}
	fwGroup   = fwScope{"group", "/cluster/firewall/groups/{group}", "/ Sys.Audit", "/ Sys.Modify"}
)

const fwLevels = "enum:emerg/alert/crit/err/warning/notice/info/debug/nolog"

// fwOptions are the options by rule_env.
var fwOptions = map[string]string{
	"cluster": "ebtables=bool enable=int,min=0 log_ratelimit=property policy_forward=enum:ACCEPT/DROP" +
		" policy_in=enum:ACCEPT/REJECT/DROP policy_out=enum:ACCEPT/REJECT/DROP",
	"host": "enable=bool log_level_forward=" + fwLevels + " log_level_in=" + fwLevels + " log_level_out=" + fwLevels +
		" log_nf_conntrack=bool ndp=bool nf_conntrack_allow_invalid=bool nf_conntrack_helpers=fw-helpers nf_conntrack_max=int,min=32768" +
		" nf_conntrack_tcp_timeout_established=int,min=7875 nf_conntrack_tcp_timeout_syn_recv=int,min=30,max=60 nftables=bool nosmurfs=bool" +
		" protection_synflood=bool protection_synflood_burst=int protection_synflood_rate=int smurf_log_level=" + fwLevels +
		" tcp_flags_log_level=" + fwLevels + " tcpflags=bool",
	"vm": "dhcp=bool enable=bool ipfilter=bool log_level_in=" + fwLevels + " log_level_out=" + fwLevels +
		" macfilter=bool ndp=bool policy_in=enum:ACCEPT/REJECT/DROP policy_out=enum:ACCEPT/REJECT/DROP radv=bool",
}

func firewallRoutes() []*route {
	const log = "limit=int,min=0 since=int,min=0 start=int,min=0 until=int,min=0"
	all := []*route{
		{method: "GET", path: fwCluster.base, call: fwIndex("aliases rules options groups ipset macros refs")},
		{method: "GET", path: fwHost.base, call: fwIndex("rules options log")},
		{method: "GET", path: fwVM.base, call: fwIndex("rules aliases ipset refs options")},
		{method: "GET", path: fwHost.base + "/log", call: fwLog, daemon: true, perm: "/nodes/{node} Sys.Syslog", params: log},
		{method: "GET", path: fwVM.base + "/log", call: fwLog, daemon: true, perm: "/vms/{vmid} VM.Console", params: log},
		{method: "GET", path: fwCluster.base + "/macros", call: listMacros},
	}
	for _, sc := range []fwScope{fwCluster, fwHost, fwVM} {
		all = append(all, &route{method: "GET", path: sc.base + "/options", call: sc.getOptions, perm: sc.audit},
			&route{method: "PUT", path: sc.base + "/options", call: sc.setOptions, daemon: true, perm: sc.modify,
				params: fwOptions[sc.env] + " delete=configid-list digest=string,len=64"})
		all = append(all, sc.ruleRoutes(sc.base+"/rules")...)
	}
	for _, sc := range []fwScope{fwCluster, fwVM} {
		all = append(all, sc.setRoutes()...)
		all = append(all, sc.aliasRoutes()...)
		all = append(all, &route{method: "GET", path: sc.base + "/refs", call: sc.refs, perm: sc.audit, params: "type=enum:alias/ipset"})
	}
	all = append(all, groupRoutes()...)
	for _, r := range all {
		// Of a VM's calls only these go to its node; all nodes have the files.
		r.anywhere = strings.HasPrefix(r.path, fwVM.base) && !strings.HasSuffix(r.path, "/options") && !strings.HasSuffix(r.path, "/log")
	}
	return all
}

func fwIndex(names string) func(*call) (any, error) {
	return func(*call) (any, error) {
		out := []map[string]any{}
		for n := range strings.FieldsSeq(names) {
			out = append(out, map[string]any{"name": n})
		}
		return out, nil
	}
}

// fwLog is what a node without the firewall daemon answers (measured).
func fwLog(*call) (any, error) {
	return paged{map[string]any{"n": 1, "t": "unable to open file - No such file or directory"}, 1, true}, nil
}

// name is that of the file a call is about.
func (sc fwScope) name(c *call) string {
	switch sc.env {
	case "vm":
		return c.p.str("vmid")
	case "host":
		return "host/" + c.node.Name
	}
	return "cluster"
}

// load reads the file a call is about.
func (sc fwScope) load(c *call) *fwFile { return c.s.c.firewall(sc.name(c)) }

func (sc fwScope) save(c *call, f *fwFile) { c.s.c.saveFirewall(sc.name(c), f) }

// firewall reads a file; one that is not there is empty.
func (c *Cluster) firewall(name string) *fwFile {
	env := "vm"
	switch {
	case name == "cluster":
		return parseFirewall(c.Firewall[name], name, nil)
	case strings.HasPrefix(name, "host/"):
		env = "host"
	}
	return parseFirewall(c.Firewall[name], env, c.firewall("cluster"))
}

func (c *Cluster) saveFirewall(name string, f *fwFile) {
	c.Firewall[name] = f.String()
	if c.Firewall[name] == "" {
		delete(c.Firewall, name)
	}
}

// cloneFirewall gives a clone the firewall of its source, and takes from it
// what one who had its VMID before has left.
func (c *Cluster) cloneFirewall(from, to int) {
	delete(c.Firewall, strconv.Itoa(to))
	if text, ok := c.Firewall[strconv.Itoa(from)]; ok {
		c.Firewall[strconv.Itoa(to)] = text
	}
}

// fwEntry is a rule, an alias, or a member of a set, by the names that the API
// has for its parts.
type fwEntry struct {
	values map[string]string
	errors map[string]string // of a rule that is wrong in the file
}

func (e fwEntry) get(k string) string { return e.values[k] }

// fwDigest is over parts and values alone: where an entry stands, and whether
// it is wrong, is not in it (Firewall.pm copy_list_with_digest).
func fwDigest(list ...fwEntry) string {
	h := sha1.New() //nolint:gosec // as PVE
	for _, e := range list {
		for _, k := range slices.Sorted(maps.Keys(e.values)) {
			_, _ = fmt.Fprintf(h, "%s:%s\n", k, e.values[k])
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// unmodified is PVE::Tools::assert_if_modified.
func (c *call) unmodified(list ...fwEntry) error {
	if d := c.p.str("digest"); d != "" && d != fwDigest(list...) {
		return die("detected modified configuration - file changed by other user? Try again.")
	}
	return nil
}

// fwList is a list as the API shows it.
func fwList(list []fwEntry) []map[string]any {
	out, digest := make([]map[string]any, len(list)), fwDigest(list...)
	for i, e := range list {
		out[i] = e.json()
		out[i]["digest"] = digest
	}
	return out
}

func (e fwEntry) json() map[string]any {
	out := map[string]any{}
	for k, v := range e.values {
		switch k {
		case "enable", "ipversion", "nomatch":
			out[k], _ = strconv.Atoi(v)
		default:
			out[k] = v
		}
	}
	if len(e.errors) > 0 {
		out["errors"] = e.errors
	}
	return out
}

// getOptions shows what is in the file: no defaults.
func (sc fwScope) getOptions(c *call) (any, error) {
	options := sc.load(c).options
	out := map[string]any{"digest": fwDigest(fwEntry{values: options})}
	specs := parseParams(fwOptions[sc.env])
	for k, v := range options {
		out[k] = jsonValue(specs[k], v)
	}
	return out, nil
}

func (sc fwScope) setOptions(c *call) (any, error) {
	f, specs := sc.load(c), parseParams(fwOptions[sc.env])
	if err := c.unmodified(fwEntry{values: f.options}); err != nil {
		return nil, err
	}
	for _, k := range c.p.list("delete") {
		if specs[k] == nil {
			return nil, badParam("delete", "no such option '%s'", k)
		}
		delete(f.options, k)
	}
	for k, spec := range specs {
		if !c.p.has(k) {
			continue
		}
		f.options[k] = c.p.str(k)
		if spec.kind == "boolean" {
			f.options[k] = strconv.Itoa(number(c.p.flag(k)))
		}
	}
	// Any other number than 1 is an attempt, which ends by itself.
	if sc.env == "cluster" && c.p.num("enable") > 1 {
		f.options["enable"] = strconv.FormatInt(time.Now().Unix(), 10)
	}
	sc.save(c, f)
	return nil, nil
}

// refs are what the rules of a scope can name.
func (sc fwScope) refs(c *call) (any, error) {
	out := c.s.c.firewall("cluster").refs(c.p.str("type"), "dc")
	if sc.env == "vm" {
		out = append(out, sc.load(c).refs(c.p.str("type"), "guest")...)
	}
	return out, nil
}

func (f *fwFile) refs(typ, scope string) []map[string]any {
	out := []map[string]any{}
	add := func(kind, name, ref, comment string) {
		if typ != "" && typ != kind {
			return
		}
		e := map[string]any{"type": kind, "name": name, "ref": ref, "scope": scope}
		if comment != "" {
			e["comment"] = comment
		}
		out = append(out, e)
	}
	for _, name := range slices.Sorted(maps.Keys(f.sets)) {
		add("ipset", name, "+"+name, f.sets[name].comment)
	}
	for _, name := range slices.Sorted(maps.Keys(f.aliases)) {
		add("alias", name, name, f.aliases[name].get("comment"))
	}
	return out
}
