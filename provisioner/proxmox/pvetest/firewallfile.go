package pvetest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fwFile is a file of the firewall taken apart. Every call reads it and writes
// it anew, as PVE does, with what that costs: the rest of a comment that has a
// line break is a line of its own, which is dropped or taken for a rule; names
// of sets and groups become lower case; the members of a set are sorted.
type fwFile struct {
	options map[string]string
	aliases map[string]fwEntry // by the name in lower case
	sets    map[string]*fwSet
	groups  map[string]*fwSet // of the cluster: security groups with their rules
	rules   []fwEntry
}

// fwSet is a list with a name: an IP set or a security group.
type fwSet struct {
	comment string
	list    []fwEntry
}

// fwParser is Firewall.pm generic_fw_config_parser.
type fwParser struct {
	*fwFile
	cluster *fwFile // whose aliases and sets rules may name
	env     string
	section string
	set     *fwSet          // of sections that are sets
	taken   map[string]bool // names in the set
}

func parseFirewall(text, env string, cluster *fwFile) *fwFile {
	f := &fwFile{options: map[string]string{}, aliases: map[string]fwEntry{}, sets: map[string]*fwSet{}, groups: map[string]*fwSet{}}
	if cluster == nil {
		cluster = f
	}
	p := &fwParser{fwFile: f, cluster: cluster, env: env}
	for line := range strings.Lines(text) {
		line = strings.Trim(line, " \t\n")
		if strings.TrimSpace(line) == "" || line[0] == '#' || p.header(line) {
			continue
		}
		p.line(line)
	}
	return f
}

var (
	fwHeader  = regexp.MustCompile(`(?i)^\[(options|aliases|rules)\]$`)
	fwSetLine = regexp.MustCompile(`(?i)^\[(group|ipset)\s+(\S+)\]\s*(?:#\s*(.*?)\s*)?$`)
	fwOption  = regexp.MustCompile(`^(\w+):\s*(\S+)\s*$`)
	fwWord    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9\-_]+$`)
)

// header begins a section, if the line is the head of one that the file has.
func (p *fwParser) header(line string) bool {
	if m := fwHeader.FindStringSubmatch(line); m != nil {
		name := strings.ToLower(m[1])
		if name == "aliases" && p.env == "host" {
			return false
		}
		p.section, p.set = name, nil
		return true
	}
	m := fwSetLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	sets := p.sets
	switch kind := strings.ToLower(m[1]); {
	case kind == "group" && p.env != "cluster" || p.env == "host":
		return false
	case kind == "group":
		p.section, sets = "group", p.groups
	default:
		p.section = "ipset"
	}
	p.set, p.taken = &fwSet{comment: m[3]}, map[string]bool{}
	sets[strings.ToLower(m[2])] = p.set
	return true
}

// line reads a line of a section. One that makes no sense is passed over.
func (p *fwParser) line(line string) {
	switch p.section {
	case "options":
		p.option(line)
	case "aliases":
		if a, ok := parseAlias(line); ok {
			p.aliases[strings.ToLower(a.get("name"))] = a
		}
	case "rules":
		if r, ok := parseRule(line, p.env, p.cluster, p.fwFile); ok {
			p.rules = append(p.rules, r)
		}
	case "group":
		if r, ok := parseRule(line, "group", p.cluster, nil); ok {
			p.set.list = append(p.set.list, r)
		}
	case "ipset":
		p.set.list = append(p.set.list, p.member(line))
	}
}

func (p *fwParser) option(line string) {
	m := fwOption.FindStringSubmatch(line)
	if m == nil {
		return
	}
	k, v := strings.ToLower(m[1]), m[2]
	spec := parseParams(fwOptions[p.env])[k]
	if spec == nil || spec.wrong(k, v) != "" {
		return
	}
	if since, _ := strconv.ParseInt(v, 10, 64); p.env == "cluster" && k == "enable" && since > 1 && time.Now().Unix()-since > 60 {
		v = "0" // an attempt that nobody confirmed
	}
	p.options[k] = v
}

// cutComment splits a line at the first "#".
func cutComment(line string) (rest, comment string) {
	rest, comment, _ = strings.Cut(line, "#")
	return strings.TrimSpace(rest), strings.TrimSpace(comment)
}

func parseAlias(line string) (fwEntry, bool) {
	rest, comment := cutComment(line)
	name, cidr, _ := strings.Cut(rest, " ")
	cidr, version, ok := cutCIDR(cidr)
	if !ok {
		return fwEntry{}, false
	}
	a := fwEntry{values: map[string]string{"name": name, "cidr": cidr, "ipversion": version}}
	if written(comment) {
		a.values["comment"] = comment
	}
	return a, true
}

// member is an address, a network, or an alias, in a set.
func (p *fwParser) member(line string) fwEntry {
	rest, comment := cutComment(line)
	m := fwEntry{values: map[string]string{}, errors: map[string]string{}}
	cidr, not := strings.CutPrefix(rest, "!")
	cidr = strings.TrimSpace(cidr)
	if scope, alias, ok := cutAlias(cidr); ok {
		if _, err := resolveAlias(p.cluster, p.fwFile, scope, alias); err != nil {
			m.errors["cidr"] = asAPIError(err).message
		}
	} else if short, _, ok := cutCIDR(cidr); ok {
		cidr = short
	} else {
		m.errors["cidr"] = notCIDR
	}
	switch {
	case p.taken[cidr]:
		m.errors["cidr"] = "duplicate ipset entry for '" + cidr + "'"
	case zeroPrefix.MatchString(cidr):
		m.errors["cidr"] = "a zero prefix is not allowed in ipset entries\n"
	}
	p.taken[cidr] = true
	m.values["cidr"] = cidr
	if not {
		m.values["nomatch"] = "1"
	}
	if written(comment) {
		m.values["comment"] = comment
	}
	return m
}

// parseRule is parse_fw_rule: a rule that is wrong is kept and says so.
func parseRule(line, env string, cluster, own *fwFile) (fwEntry, bool) {
	line, comment := cutComment(line)
	line, disabled := strings.CutPrefix(line, "|")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return fwEntry{}, false
	}
	r := fwEntry{values: map[string]string{"type": strings.ToLower(fields[0]), "action": fields[1], "enable": strconv.Itoa(number(!disabled))}}
	if written(comment) {
		r.values["comment"] = comment
	}
	if m := fwMacroCall.FindStringSubmatch(fields[1]); m != nil && r.get("type") != "group" {
		r.values["macro"], r.values["action"] = m[1], m[2]
	}
	for rest := fields[2:]; len(rest) > 0; rest = rest[2:] {
		k, ok := fwFlags[strings.TrimLeft(rest[0], "-")]
		if !ok || rest[0][0] != '-' || len(rest) == 1 || r.get("type") == "group" && k != "iface" {
			return fwEntry{}, false
		}
		r.values[k] = rest[1]
	}
	v := &ruleCheck{rule: r, env: env, cluster: cluster, own: own}
	v.run()
	if v.died != nil {
		return fwEntry{}, false
	}
	r.errors = map[string]string{}
	for _, e := range v.found {
		if r.errors[e.param] == "" {
			r.errors[e.param] = e.message
		}
	}
	return r, true
}

var fwMacroCall = regexp.MustCompile(`^(\S+)\((ACCEPT|DROP|REJECT)\)$`)

// fwFlags are the parts of a rule in the file.
var fwFlags = map[string]string{"i": "iface", "p": "proto", "proto": "proto", "dport": "dport", "sport": "sport", "source": "source",
	"dest": "dest", "log": "log", "icmp-type": "icmp-type"}

// written says whether a value gets into the file: to Perl "0" is none.
func written(v string) bool { return v != "0" && strings.TrimSpace(v) != "" }

func withComment(line, comment string) string {
	if written(comment) {
		line += " # " + comment
	}
	return line + "\n"
}

// String is the file as save_vmfw_conf and its like write it, but for the
// options, which there have no order.
func (f *fwFile) String() string {
	var out strings.Builder
	if len(f.options) > 0 {
		out.WriteString("[OPTIONS]\n\n")
		for _, k := range slices.Sorted(maps.Keys(f.options)) {
			fmt.Fprintf(&out, "%s: %s\n", k, f.options[k])
		}
		out.WriteString("\n")
	}
	if len(f.aliases) > 0 {
		out.WriteString("[ALIASES]\n\n")
		for _, k := range slices.Sorted(maps.Keys(f.aliases)) {
			a := f.aliases[k]
			out.WriteString(withComment(a.get("name")+" "+a.get("cidr"), a.get("comment")))
		}
		out.WriteString("\n")
	}
	for _, name := range slices.Sorted(maps.Keys(f.sets)) {
		f.sets[name].write(&out, "IPSET "+name, memberLine)
	}
	if len(f.rules) > 0 {
		out.WriteString("[RULES]\n\n")
		for _, r := range f.rules {
			out.WriteString(ruleLine(r))
		}
		out.WriteString("\n")
	}
	for _, name := range slices.Sorted(maps.Keys(f.groups)) {
		f.groups[name].write(&out, "group "+name, func(r fwEntry) string {
			delete(r.values, "iface") // which a group's rules don't have
			return ruleLine(r)
		})
	}
	return out.String()
}

func (s *fwSet) write(out *strings.Builder, head string, line func(fwEntry) string) {
	head = "[" + head + "]"
	if s.comment != "" && s.comment != "0" {
		head += " # " + s.comment
	}
	out.WriteString(head + "\n\n")
	list := s.list
	if strings.HasPrefix(head, "[IPSET") {
		list = slices.Clone(list)
		slices.SortStableFunc(list, func(a, b fwEntry) int { return strings.Compare(a.get("cidr"), b.get("cidr")) })
		list = slices.CompactFunc(list, func(a, b fwEntry) bool { return a.get("cidr") == b.get("cidr") })
	}
	for _, e := range list {
		out.WriteString(line(e))
	}
	out.WriteString("\n")
}

func memberLine(e fwEntry) string {
	line := e.get("cidr")
	if e.get("nomatch") != "" {
		line = "!" + line
	}
	return withComment(line, e.get("comment"))
}

func ruleLine(r fwEntry) string {
	var out strings.Builder
	if v := r.get("enable"); v == "0" {
		out.WriteString("|")
	}
	out.WriteString(strings.ToUpper(r.get("type")) + " ")
	if m := r.get("macro"); written(m) {
		fmt.Fprintf(&out, "%s(%s)", m, r.get("action"))
	} else {
		out.WriteString(r.get("action"))
	}
	for _, part := range []struct{ flag, key string }{
		{"i", "iface"}, {"source", "source"}, {"dest", "dest"}, {"p", "proto"}, {"dport", "dport"}, {"sport", "sport"}, {"log", "log"}, {"icmp-type", "icmp-type"},
	} {
		if v := r.get(part.key); written(v) && (part.key == "iface" || r.get("type") != "group") {
			out.WriteString(" -" + part.flag + " " + v)
		}
	}
	return withComment(out.String(), r.get("comment"))
}
