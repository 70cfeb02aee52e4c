package pvetest

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fwFormats are the formats that Firewall.pm registers; each says what is
// wrong with a value.
var fwFormats = map[string]func(string) string{
	"fw-addr":    func(v string) string { _, msg := addressList(v); return msg },
	"fw-dport":   func(v string) string { return checkPorts(v, true) },
	"fw-sport":   func(v string) string { return checkPorts(v, false) },
	"fw-proto":   checkProto,
	"fw-icmp":    checkICMP,
	"fw-cidr":    checkCIDR,
	"fw-helpers": checkHelpers,
	"fw-member": func(v string) string {
		if _, _, ok := cutAlias(v); ok {
			return ""
		}
		return checkCIDR(v)
	},
}

const notCIDR = "value does not look like a valid IP address or CIDR network"

var zeroPrefix = regexp.MustCompile(`/0+$`)

// splitCIDR takes an address and the length of its network apart, which is -1
// if there is none.
func splitCIDR(v string) (netip.Addr, int, bool) {
	ip, bits, isNet := strings.Cut(v, "/")
	addr, err := netip.ParseAddr(ip)
	n := -1
	if isNet {
		var nerr error
		if n, nerr = strconv.Atoi(bits); nerr != nil || n < 0 || bits[0] == '+' {
			return addr, 0, false
		}
	}
	return addr, n, err == nil && addr.Zone() == ""
}

func checkCIDR(v string) string {
	addr, n, ok := splitCIDR(v)
	switch {
	case !ok:
		return notCIDR
	case n > addr.BitLen():
		return longPrefix(n, addr)
	}
	return ""
}

func longPrefix(n int, addr netip.Addr) string {
	return fmt.Sprintf("Prefix length %d is longer than IP address (%d)", n, addr.BitLen())
}

// cutCIDR leaves out the length of a network that is a single address.
func cutCIDR(v string) (cidr, version string, ok bool) {
	addr, _, ok := splitCIDR(v)
	if !ok {
		return v, "", false
	}
	if addr.Is4() {
		return strings.TrimSuffix(v, "/32"), "4", true
	}
	return strings.TrimSuffix(v, "/128"), "6", true
}

// cleanCIDR clears the bits that don't belong to the network.
func cleanCIDR(v string) string {
	if addr, n, ok := splitCIDR(v); ok && n > 0 {
		v = netip.PrefixFrom(addr, n).Masked().String()
	}
	v, _, _ = cutCIDR(v)
	return v
}

var fwAlias = regexp.MustCompile(`^(dc/|guest/)?([A-Za-z][A-Za-z0-9\-_]+)$`)

// cutAlias splits what names an alias, perhaps with a scope before it.
func cutAlias(v string) (scope, alias string, ok bool) {
	m := fwAlias.FindStringSubmatch(v)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// resolveAlias looks into the file of the scope, without one first into own.
func resolveAlias(cluster, own *fwFile, scope, alias string) (fwEntry, error) {
	name := strings.ToLower(alias)
	if own != nil && scope != "dc/" {
		if a, ok := own.aliases[name]; ok {
			return a, nil
		}
	}
	if a, ok := cluster.aliases[name]; ok && scope != "guest/" {
		return a, nil
	}
	return fwEntry{}, die("no such alias '%s'", alias)
}

// commaList splits a list; Perl's split drops what is empty at the end.
func commaList(v string) ([]string, string) {
	if strings.HasSuffix(v, ",") {
		return nil, "extraneous commas in list"
	}
	if v == "" {
		return nil, ""
	}
	return strings.Split(v, ","), ""
}

// addressList is parse_address_list: a set, an alias, a range, or a list of
// addresses and networks. It tells the version of IP if that can be seen.
func addressList(v string) (version, msg string) {
	if set, ok := strings.CutPrefix(v, "+"); ok && set != "" && !strings.ContainsAny(set, " \t\n") {
		if len(set) > 64 {
			return "", "ipset name too long"
		}
		return "", ""
	}
	if _, _, ok := cutAlias(v); ok {
		if len(v) > 64 {
			return "", "alias name too long"
		}
		return "", ""
	}
	list, msg := commaList(v)
	if msg != "" {
		return "", msg
	}
	for _, e := range list {
		got, msg := netIP(e)
		switch {
		case msg != "":
			return "", "invalid IP address: " + msg
		case version != "" && got != version:
			return "", "detected mixed ipv4/ipv6 addresses in address list '" + v + "'"
		}
		version = got
	}
	if len(list) > 1 && strings.Contains(v, "-") {
		return "", "you can't use a range in a list"
	}
	return version, ""
}

// netIP is what Perl's Net::IP makes of an address, a network or a range:
// other than with members of sets, no bit may be set beyond the network's.
func netIP(v string) (version, msg string) {
	if from, to, ok := strings.Cut(v, "-"); ok {
		a, msg := netAddr(from)
		b, msg2 := netAddr(to)
		switch {
		case msg != "" || msg2 != "":
			return "", cmp.Or(msg, msg2)
		case b.Less(a):
			return "", "Begin address is greater than End address " + from + " - " + to
		}
		return versionOf(a), ""
	}
	ip, bits, isNet := strings.Cut(v, "/")
	addr, msg := netAddr(ip)
	if msg != "" || !isNet {
		return versionOf(addr), msg
	}
	n, err := strconv.Atoi(bits)
	switch {
	case err != nil || n < 0:
		return "", "Invalid prefix " + v
	case n > addr.BitLen():
		return "", longPrefix(n, addr)
	case netip.PrefixFrom(addr, n).Masked().Addr() != addr:
		var bin strings.Builder
		for _, b := range addr.AsSlice() {
			fmt.Fprintf(&bin, "%08b", b)
		}
		return "", fmt.Sprintf("Invalid prefix %s/%d", bin.String(), n)
	}
	return versionOf(addr), ""
}

func versionOf(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

var digitsAndDots = regexp.MustCompile(`^[\d.]+$`)

// netAddr takes IPv4 addresses of fewer than four parts, too: zeros follow.
func netAddr(v string) (netip.Addr, string) {
	if strings.Contains(v, ":") {
		addr, err := netip.ParseAddr(v)
		if err != nil || addr.Zone() != "" {
			return addr, "Invalid IP address " + v
		}
		return addr, ""
	}
	quads := strings.Split(v, ".")
	switch {
	case !digitsAndDots.MatchString(v):
		return netip.Addr{}, "Invalid chars in IP " + v
	case quads[0] == "":
		return netip.Addr{}, "Invalid IP " + v + " - starts with a dot"
	case quads[len(quads)-1] == "":
		return netip.Addr{}, "Invalid IP " + v + " - ends with a dot"
	case len(quads) > 4:
		return netip.Addr{}, "Invalid IP address " + v
	case slices.Contains(quads, ""):
		return netip.Addr{}, "Empty quad in IP address " + v
	}
	var b [4]byte
	for i, q := range quads {
		n, err := strconv.ParseUint(q, 10, 8)
		if err != nil {
			return netip.Addr{}, "Invalid quad in IP address " + v + " - " + q
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), ""
}

var (
	portRange  = regexp.MustCompile(`^([0-9]+):([0-9]+)$`)
	portNumber = regexp.MustCompile(`^[0-9]+$`)
)

// checkPorts is parse_port_name_number_or_range. A range counts as two; types
// of ICMP could once be given as a port.
func checkPorts(v string, icmp bool) string {
	list, msg := commaList(v)
	if msg != "" {
		return msg
	}
	count, types := 0, false
	for _, e := range list {
		if m := portRange.FindStringSubmatch(e); m != nil {
			count += 2
			from, _ := strconv.ParseUint(m[1], 10, 32)
			to, _ := strconv.ParseUint(m[2], 10, 32)
			switch {
			case !isPort(m[1]):
				return "invalid port '" + m[1] + "'"
			case !isPort(m[2]):
				return "invalid port '" + m[2] + "'"
			case from > to:
				return fmt.Sprintf("backwards range '%s:%s' not allowed, did you mean '%[2]s:%[1]s'?", m[1], m[2])
			}
			continue
		}
		switch {
		case portNumber.MatchString(e):
			count++
			if !isPort(e) {
				return "invalid port '" + e + "'"
			}
		case icmp && checkICMP(e) == "":
			types = true
		case !slices.Contains(fwServices, e):
			return "invalid port '" + e + "'"
		}
	}
	switch {
	case types && count > 0:
		return "ICMP ports not allowed in port range"
	case count > 15:
		return "too many entries in port list (> 15 numbers)"
	}
	return ""
}

func isPort(v string) bool {
	n, err := strconv.ParseUint(v, 10, 64)
	return err == nil && n <= 65535
}

func checkProto(v string) string {
	if v == "" || v == "0" {
		return ""
	}
	for _, p := range fwProtocols {
		if name, number, _ := strings.Cut(p, "/"); v == name || v == number {
			return ""
		}
	}
	return "unknown protocol '" + v + "'"
}

func checkICMP(v string) string {
	if v == "" || slices.Contains(fwICMP, v) || slices.Contains(fwICMP6, v) {
		return ""
	}
	return "invalid icmp-type value '" + v + "'"
}

func checkHelpers(v string) string {
	list, msg := commaList(v)
	if msg != "" {
		return msg
	}
	for _, e := range list {
		if !slices.Contains(strings.Fields("amanda ftp irc netbios-ns pptp sane sip snmp tftp"), e) {
			return "unknown helper " + e
		}
	}
	return ""
}
