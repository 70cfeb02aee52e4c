package pvetest

import (
	"maps"
	"slices"
	"strings"
)

// fwMacros are what Firewall.pm's macros stand for: protocol, destination
// ports, source ports.
const fwMacros = `
	Amanda=udp/10080+tcp/10080 Auth=tcp/113 BGP=tcp/179 BitTorrent32=tcp/6881:6999+udp/6881 BitTorrent=tcp/6881:6889+udp/6881
	Ceph=tcp/6789+tcp/3300+tcp/6800:7300 Citrix=tcp/1494+udp/1604+tcp/2598 CVS=tcp/2401 DAAP=tcp/3689+udp/3689 DCC=tcp/6277 DHCPfwd=udp/67:68/67:68
	Distcc=tcp/3632 DNS=udp/53+tcp/53 Finger=tcp/79 FTP=tcp/21 Git=tcp/9418 GNUnet=tcp/2086+udp/2086+tcp/1080+udp/1080 GRE=47 HKP=tcp/11371 HTTP=tcp/80
	HTTPS=tcp/443 ICPV2=udp/3130 ICQ=tcp/5190 IMAP=tcp/143 IMAPS=tcp/993 IPIP=94 IPsec=udp/500/500+50 IPsecah=udp/500/500+51 IPsecnat=udp/500+udp/4500+50
	IRC=tcp/6667 Jetdirect=tcp/9100 L2TP=udp/1701 LDAP=tcp/389 LDAPS=tcp/636 Mail=tcp/25+tcp/465+tcp/587 MDNS=udp/5353 MSNP=tcp/1863 MSSQL=tcp/1433
	Munin=tcp/4949 MySQL=tcp/3306 NNTP=tcp/119 NNTPS=tcp/563 NTP=udp/123 OpenVPN=udp/1194 OSPF=89 PCA=udp/5632+tcp/5631 Ping=icmp/echo-request
	PMG=tcp/8006 POP3=tcp/110 POP3S=tcp/995 PostgreSQL=tcp/5432 PPtP=47+tcp/1723 Printer=tcp/515 Razor=tcp/2703 Rdate=tcp/37 RDP=tcp/3389 RIP=udp/520
	RNDC=tcp/953 Rsync=tcp/873 SANE=tcp/6566 SixXS=tcp/3874+udp/3740+41+udp/5072,8374 SMB=udp/135,445+udp/137:139+udp/1024:65535/137+tcp/135,139,445
	SMBswat=tcp/901 SMTP=tcp/25 SMTPS=tcp/465 SNMP=udp/161:162+tcp/161 SPAMD=tcp/783 SPICEproxy=tcp/3128 Squid=tcp/3128 SSH=tcp/22 Submission=tcp/587
	SVN=tcp/3690 Syslog=udp/514+tcp/514 Telnet=tcp/23 Telnets=tcp/992 TFTP=udp/69 Time=tcp/37 Trcrt=udp/33434:33524+icmp/echo-request VNC=tcp/5900:5999
	VNCL=tcp/5500 Web=tcp/80+tcp/443 Webcache=tcp/8080 Webmin=tcp/10000 Whois=tcp/43`

// fwMacros6 are those of IPv6, some in the place of one above.
const fwMacros6 = `DHCPv6=udp/546:547/546:547 NeighborDiscovery=icmpv6/router-solicitation+icmpv6/router-advertisement+icmpv6/neighbor-solicitation+icmpv6/neighbor-advertisement Ping=icmpv6/echo-request Trcrt=udp/33434:33524+icmpv6/echo-request`

// fwICMP and fwICMP6 are the types of ICMP that have a name.
var (
	fwICMP = strings.Fields(`
	any echo-reply destination-unreachable network-unreachable host-unreachable protocol-unreachable port-unreachable fragmentation-needed
	source-route-failed network-unknown host-unknown network-prohibited host-prohibited TOS-network-unreachable TOS-host-unreachable
	communication-prohibited host-precedence-violation precedence-cutoff source-quench redirect network-redirect host-redirect TOS-network-redirect
	TOS-host-redirect echo-request router-advertisement router-solicitation time-exceeded ttl-zero-during-transit ttl-zero-during-reassembly
	parameter-problem ip-header-bad required-option-missing timestamp-request timestamp-reply address-mask-request address-mask-reply`)
	fwICMP6 = strings.Fields(`
	destination-unreachable no-route communication-prohibited beyond-scope address-unreachable port-unreachable failed-policy reject-route packet-too-big
	time-exceeded ttl-zero-during-transit ttl-zero-during-reassembly parameter-problem bad-header unknown-header-type unknown-option echo-request
	echo-reply router-solicitation router-advertisement neighbor-solicitation neighbour-solicitation neighbor-advertisement neighbour-advertisement
	redirect`)
)

// fwProtocols are a node's /etc/protocols.
var fwProtocols = strings.Fields(`
	ip/0 icmp/1 igmp/2 ggp/3 ipencap/4 st/5 tcp/6 egp/8 igp/9 pup/12 udp/17 hmp/20 xns-idp/22 rdp/27 iso-tp4/29 dccp/33 xtp/36 ddp/37 idpr-cmtp/38 ipv6/41
	ipv6-route/43 ipv6-frag/44 idrp/45 rsvp/46 gre/47 esp/50 ah/51 skip/57 ipv6-icmp/58 icmpv6/58 ipv6-nonxt/59 ipv6-opts/60 rspf/73 vmtp/81 eigrp/88
	ospf/89 ax.25/93 ipip/94 etherip/97 encap/98 pim/103 ipcomp/108 vrrp/112 l2tp/115 isis/124 sctp/132 fc/133 mobility-header/135 udplite/136
	mpls-in-ip/137 manet/138 hip/139 shim6/140 wesp/141 rohc/142`)

// fwServices are the common ones of a node's /etc/services.
var fwServices = strings.Fields(`
	tcpmux echo discard systat daytime netstat qotd chargen ftp-data ftp ssh telnet smtp time whois tacacs domain bootps bootpc tftp gopher finger http
	kerberos pop3 sunrpc auth nntp ntp netbios-ns netbios-dgm netbios-ssn imap2 snmp snmp-trap bgp irc ldap https microsoft-ds submissions isakmp syslog
	printer route submission ldaps ftps telnets imaps pop3s ipsec-nat-t openvpn ms-sql-s l2f radius radius-acct nfs mysql rdp postgresql sip sip-tls amqp
	mdns git svn redis http-alt`)

// macros of a table by name.
func macros(table string) map[string][]params {
	out := map[string][]params{}
	for field := range strings.FieldsSeq(table) {
		name, rules, _ := strings.Cut(field, "=")
		for r := range strings.SplitSeq(rules, "+") {
			p := params{}
			for i, v := range strings.Split(r, "/") {
				if v != "" {
					p[[]string{"proto", "dport", "sport"}[i]] = v
				}
			}
			out[name] = append(out[name], p)
		}
	}
	return out
}

// macroName is how a macro is written, whatever the case it was asked for in;
// empty is none.
func macroName(name string) string {
	for _, table := range []string{fwMacros, fwMacros6} {
		for n := range macros(table) {
			if strings.EqualFold(n, name) {
				return n
			}
		}
	}
	return ""
}

// macro refuses what contradicts the macro (Firewall.pm apply_macro). One of
// the other version of IP does nothing.
func (v *ruleCheck) macro(name string) {
	rules, six := macros(fwMacros)[name], macros(fwMacros6)[name]
	switch {
	case v.version == "6" && six != nil:
		rules = six
	case rules == nil && v.version == "4":
		return
	case rules == nil:
		rules = six
	}
	for _, r := range rules {
		for _, k := range slices.Sorted(maps.Keys(r)) {
			if have := v.rule.get(k); have != "" && have != r.str(k) {
				v.fail(k, "parameter '"+k+"' already define in macro (value = '"+r.str(k)+"')")
			}
		}
	}
}

// listMacros has names for descriptions.
func listMacros(*call) (any, error) {
	all := macros(fwMacros)
	maps.Copy(all, macros(fwMacros6))
	out := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, map[string]any{"macro": name, "descr": name})
	}
	return out, nil
}
