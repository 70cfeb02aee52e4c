package pvetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// ask makes a call with pairs of parameters. It returns the data as JSON
// without digests, or the status with what is said of the parameters, or of
// the call.
func (cl *client) ask(call string, kv ...string) string {
	cl.t.Helper()
	form := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		form.Add(kv[i], kv[i+1])
	}
	method, path, _ := strings.Cut(call, " ")
	if method == http.MethodGet || method == http.MethodDelete {
		path, form = path+"?"+form.Encode(), nil
	}
	req, err := http.NewRequestWithContext(cl.t.Context(), method, cl.url+"/api2/json"+path, strings.NewReader(form.Encode()))
	if err != nil {
		cl.t.Fatal(err)
	}
	req.Header.Set("Authorization", "PVEAPIToken="+cl.token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := cl.http.Do(req)
	if err != nil {
		cl.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct {
		Data   any
		Errors map[string]string
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		cl.t.Fatal(err)
	}
	switch {
	case resp.StatusCode == 200:
		return string(encode(withoutDigest(out.Data)))
	case len(out.Errors) > 0:
		var all []string
		for k, v := range out.Errors {
			all = append(all, k+": "+strings.TrimSpace(v))
		}
		return fmt.Sprintf("%d %s", resp.StatusCode, strings.Join(all, "; "))
	}
	return resp.Status
}

func withoutDigest(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withoutDigest(v[i])
		}
	case map[string]any:
		delete(v, "digest")
	}
	return v
}

// step is a call and its answer.
type step struct {
	call string
	kv   []string
	want string
}

func (cl *client) run(steps []step) {
	cl.t.Helper()
	for _, s := range steps {
		if got := cl.ask(s.call, s.kv...); got != s.want {
			cl.t.Errorf("%s %q:\n-%s\n+%s", s.call, s.kv, s.want, got)
		}
	}
}

func form(kv ...string) []string { return kv }

const (
	fwTestVM    = "/nodes/pve/qemu/100/firewall"
	fwTestRules = fwTestVM + "/rules"
)

func firewallClient(t *testing.T) *client {
	t.Helper()
	return newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "web") })
}

func TestFirewallRulesGoOnTopAndAreOff(t *testing.T) {
	cl := firewallClient(t)
	cl.run([]step{
		{"POST " + fwTestRules, form("type", "in", "action", "ACCEPT", "comment", "first"), "null"},
		{"POST " + fwTestRules, form("type", "out", "action", "DROP", "comment", "second", "pos", "1", "enable", "1"), "null"},
		{"GET " + fwTestRules, nil, `[{"action":"DROP","comment":"second","enable":1,"pos":0,"type":"out"},{"action":"ACCEPT","comment":"first","enable":0,"pos":1,"type":"in"}]`},
		{"GET " + fwTestRules + "/1", nil, `{"action":"ACCEPT","comment":"first","enable":0,"pos":"1","type":"in"}`},
		{"PUT " + fwTestRules + "/0", form("moveto", "2", "comment", "ignored"), "null"},
		{"GET " + fwTestRules + "/1", nil, `{"action":"DROP","comment":"second","enable":1,"pos":"1","type":"out"}`},
		{"PUT " + fwTestRules + "/1", form("moveto", "0"), "null"},
		{"PUT " + fwTestRules + "/0", form("moveto", "0", "comment", "not moved: changed"), "null"},
		{"GET " + fwTestRules + "/0", nil, `{"action":"DROP","comment":"not moved: changed","enable":1,"pos":"0","type":"out"}`},
		{"PUT " + fwTestRules + "/0", form("comment", ""), "null"},
		{"GET " + fwTestRules + "/0", nil, `{"action":"DROP","enable":1,"pos":"0","type":"out"}`},
		{"PUT " + fwTestRules + "/0", form("delete", "action"), "400 delete: unable to delete required property 'action'"},
		{"PUT " + fwTestRules + "/0", form("delete", "nosuch"), "400 delete: no such property ('nosuch')"},
		{"PUT " + fwTestRules + "/2", form("enable", "1"), "500 no rule at position 2"},
	})
}

// TestFirewallCommentsAreLines: what follows a line break in a comment is no
// longer a comment, which is more than that it is cut off.
func TestFirewallCommentsAreLines(t *testing.T) {
	cl := firewallClient(t)
	cl.run([]step{
		{"POST " + fwTestRules, form("type", "in", "action", "DROP", "comment", "why\nbecause"), "null"},
		{"GET " + fwTestRules, nil, `[{"action":"DROP","comment":"why","enable":0,"pos":0,"type":"in"}]`},
		{"PUT " + fwTestRules + "/0", form("comment", "a # b\nIN ACCEPT -p tcp"), "null"},
		{"GET " + fwTestRules, nil, `[{"action":"DROP","comment":"a # b","enable":0,"pos":0,"type":"in"},{"action":"ACCEPT","enable":1,"pos":1,"proto":"tcp","type":"in"}]`},
		{"PUT " + fwTestRules + "/0", form("comment", "0"), "null"},
		{"GET " + fwTestRules + "/0", nil, `{"action":"DROP","enable":0,"pos":"0","type":"in"}`},
	})
}

func TestFirewallRuleChecks(t *testing.T) {
	cl := firewallClient(t)
	rule := func(kv ...string) []string { return append([]string{"type", "out", "action", "ACCEPT"}, kv...) }
	for _, tt := range []struct {
		kv   []string
		want string
	}{
		{rule("dport", "53"), "400 proto: missing property - 'dport' requires this property"},
		{rule("sport", "53"), "400 proto: missing property - 'sport' requires this property"},
		{rule("proto", "esp", "dport", "53"), "400 dport: protocol 'esp' does not support ports"},
		{rule("proto", "tcp", "dport", "65536"), "400 dport: invalid format - invalid port '65536'"},
		{rule("proto", "tcp", "dport", "90:80"), "400 dport: invalid format - backwards range '90:80' not allowed, did you mean '80:90'?"},
		{rule("proto", "tcp", "dport", "80,"), "400 dport: invalid format - extraneous commas in list"},
		{rule("proto", "tcp", "dport", "nosuch"), "400 dport: invalid format - invalid port 'nosuch'"},
		{rule("proto", "tcp", "dport", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"), "400 dport: invalid format - too many entries in port list (> 15 numbers)"},
		{rule("proto", "tcp", "dport", "https,8000:8010"), "null"},
		{rule("dest", "example.com"), "400 dest: invalid format - invalid IP address: Invalid chars in IP example.com"},
		{rule("dest", "10.0.0.256"), "400 dest: invalid format - invalid IP address: Invalid quad in IP address 10.0.0.256 - 256"},
		{rule("dest", "10.0.0.1/24"), "400 dest: invalid format - invalid IP address: Invalid prefix 00001010000000000000000000000001/24"},
		{rule("dest", "10.0.0.0/33"), "400 dest: invalid format - invalid IP address: Prefix length 33 is longer than IP address (32)"},
		{rule("dest", "10.0.0.1,fd00::1"), "400 dest: invalid format - detected mixed ipv4/ipv6 addresses in address list '10.0.0.1,fd00::1'"},
		{rule("dest", "10.0.0.1-10.0.0.9,10.1.0.1"), "400 dest: invalid format - you can't use a range in a list"},
		{rule("dest", "10.0.0.1-10.0.0.9"), "null"},
		{rule("source", "10.0.0.1", "dest", "fd00::1"), "400 dest: detected mixed ipv4/ipv6 addresses in rule"},
		{rule("proto", "icmp", "dest", "fd00::1"), "400 dest: detected mixed ipv4/ipv6 addresses in rule"},
		{rule("icmp-type", "echo-request"), "400 proto: missing property - 'icmp-type' requires this property"},
		{rule("icmp-type", "nosuch"), "400 icmp-type: invalid format - invalid icmp-type value 'nosuch'"},
		{rule("proto", "icmp", "icmp-type", "packet-too-big"), "400 icmp-type: invalid icmp-type 'packet-too-big' for proto 'icmp'"},
		{rule("macro", "NoSuch"), "400 macro: unknown macro 'NoSuch'"},
		{rule("macro", "https", "proto", "tcp", "dport", "99"), "400 dport: parameter 'dport' already define in macro (value = '443')"},
		{rule("macro", "https"), "null"},
		{rule("dest", "+nosuch"), "400 dest: no such ipset 'nosuch'"},
		{rule("dest", "nosuch"), "400 dest: no such alias 'nosuch'"},
		{rule("iface", "eth0"), `400 iface: value does not match the regex pattern 'net\d+'`},
		{rule("proto", "nosuch"), "400 proto: invalid format - unknown protocol 'nosuch'"},
		{form("type", "out", "action", "LOGDROP"), "400 action: unknown action 'LOGDROP'"},
		{form("type", "forward", "action", "ACCEPT"), "400 type: invalid rule type 'forward' for rule_env 'vm'"},
		{form("type", "group", "action", "nosuchgroup"), "null"},
	} {
		if got := cl.ask("POST "+fwTestRules, tt.kv...); got != tt.want {
			t.Errorf("%q:\n-%s\n+%s", tt.kv, tt.want, got)
		}
	}
	const want = `[{"action":"nosuchgroup","enable":0,"pos":0,"type":"group"},{"action":"ACCEPT","enable":0,"macro":"HTTPS","pos":1,"type":"out"},` +
		`{"action":"ACCEPT","dest":"10.0.0.1-10.0.0.9","enable":0,"ipversion":4,"pos":2,"type":"out"},{"action":"ACCEPT","dport":"https,8000:8010","enable":0,"pos":3,"proto":"tcp","type":"out"}]`
	if got := cl.ask("GET " + fwTestRules); got != want {
		t.Errorf("what was refused left something:\n-%s\n+%s", want, got)
	}
}

func TestFirewallDigests(t *testing.T) {
	cl := firewallClient(t)
	const changed = "500 detected modified configuration - file changed by other user? Try again."
	cl.run([]step{
		{"POST " + fwTestRules, form("type", "in", "action", "DROP", "digest", "00"), "null"}, // not looked at
		{"POST " + fwTestVM + "/ipset", form("name", "allow"), "null"},
		{"POST " + fwTestVM + "/ipset/allow", form("cidr", "10.0.0.1"), "null"},
		{"POST " + fwTestVM + "/aliases", form("name", "gate", "cidr", "10.0.0.1"), "null"},
		{"PUT " + fwTestVM + "/options", form("enable", "1", "digest", "00"), changed},
		{"PUT " + fwTestRules + "/0", form("enable", "1", "digest", "00"), changed},
		{"DELETE " + fwTestRules + "/7", form("digest", "00"), changed},
		{"PUT " + fwTestVM + "/ipset/allow/10.0.0.1", form("comment", "x", "digest", "00"), changed},
		{"DELETE " + fwTestVM + "/ipset/allow/10.0.0.1", form("digest", "00"), changed},
		{"POST " + fwTestVM + "/ipset", form("name", "b2", "rename", "allow", "digest", "00"), changed},
		{"DELETE " + fwTestVM + "/aliases/gate", form("digest", "00"), changed},
		{"POST /cluster/firewall/groups", form("group", "sbx"), "null"},
		{"POST /cluster/firewall/groups", form("group", "b2", "rename", "sbx", "digest", "00"), changed},
	})
	_, _, data := cl.call("GET", fwTestRules, nil)
	digest := data.([]any)[0].(map[string]any)["digest"].(string)
	cl.run([]step{
		{"PUT " + fwTestRules + "/0", form("enable", "1", "digest", digest), "null"},
		{"PUT " + fwTestRules + "/0", form("enable", "0", "digest", digest), changed},
	})
}

func TestFirewallOptions(t *testing.T) {
	cl := firewallClient(t)
	const cluster, host = "/cluster/firewall/options", "/nodes/pve/firewall/options"
	cl.run([]step{
		{"GET " + fwTestVM + "/options", nil, "{}"},
		{"PUT " + fwTestVM + "/options", form("policy_forward", "DROP"), "400 policy_forward: property is not defined in schema and the schema does not allow additional properties"},
		{"PUT " + fwTestVM + "/options", form("enable", "yes", "policy_in", "DROP", "log_level_in", "info"), "null"},
		{"GET " + fwTestVM + "/options", nil, `{"enable":1,"log_level_in":"info","policy_in":"DROP"}`},
		{"PUT " + fwTestVM + "/options", form("delete", "policy_in,nosuch", "enable", "0"), "400 delete: no such option 'nosuch'"},
		{"PUT " + fwTestVM + "/options", form("delete", "policy_in,radv"), "null"},
		{"GET " + fwTestVM + "/options", nil, `{"enable":1,"log_level_in":"info"}`},
		{"PUT " + host, form("enable", "1", "nf_conntrack_max", "32768"), "null"},
		{"GET " + host, nil, `{"enable":1,"nf_conntrack_max":32768}`},
		{"PUT " + cluster, form("enable", "1", "policy_forward", "REJECT"), "400 policy_forward: value 'REJECT' does not have a value in the enumeration 'ACCEPT, DROP'"},
		{"PUT " + cluster, form("enable", "1"), "null"},
		{"GET " + cluster, nil, `{"enable":1}`},
	})
	cl.run([]step{{"PUT " + cluster, form("enable", "2"), "null"}})
	_, _, data := cl.call("GET", cluster, nil)
	if at, _ := data.(map[string]any)["enable"].(float64); at < float64(time.Now().Add(-time.Minute).Unix()) {
		t.Errorf("an attempt to switch the cluster on reads as %v, want its time", data)
	}
	cl.srv.Edit(func(c *Cluster) { c.Firewall["cluster"] = "[OPTIONS]\n\nenable: 1700000000\n" })
	cl.run([]step{{"GET " + cluster, nil, `{"enable":0}`}})
}

func TestFirewallPrivileges(t *testing.T) {
	cl := newClient(t, &Server{}, func(c *Cluster) {
		c.AddVM("pve", 100, "web")
		c.Roles["Net"] = &Role{Privs: []string{"VM.Audit", "VM.Config.Network"}}
		c.ACL = append(c.ACL, ACL{"/vms/100", "Net", "agent@pve", true})
	})
	cl.srv.Edit(func(c *Cluster) { cl.token = "agent@pve!t=" + c.AddToken("agent@pve!t", false) })
	const groups = "/cluster/firewall/groups"
	cl.run([]step{
		{"PUT " + fwTestVM + "/options", form("enable", "1"), "null"},
		{"POST " + fwTestRules, form("type", "in", "action", "DROP"), "null"},
		{"POST " + fwTestVM + "/ipset", form("name", "allow"), "null"},
		{"POST " + fwTestVM + "/aliases", form("name", "gate", "cidr", "10.0.0.1"), "null"},
		{"GET " + fwTestVM + "/log", nil, "403 Permission check failed (/vms/100, VM.Console)"},
		{"PUT /nodes/pve/qemu/101/firewall/options", form("enable", "1"), "403 Permission check failed (/vms/101, VM.Config.Network)"},
		{"GET /nodes/pve/qemu/101/firewall/rules", nil, "403 Permission check failed (/vms/101, VM.Audit)"},
		{"GET /cluster/firewall/options", nil, "403 Permission check failed (/, Sys.Audit)"},
		{"PUT /cluster/firewall/options", form("enable", "1"), "403 Permission check failed (/, Sys.Modify)"},
		{"GET /nodes/pve/firewall/options", nil, "403 Permission check failed (/nodes/pve, Sys.Audit)"},
		{"PUT /nodes/pve/firewall/options", form("enable", "1"), "403 Permission check failed (/nodes/pve, Sys.Modify)"},
		{"GET /nodes/pve/firewall/log", nil, "403 Permission check failed (/nodes/pve, Sys.Syslog)"},
		{"GET " + groups, nil, "[]"},
		{"GET " + groups + "/sbx", nil, "403 Permission check failed (/, Sys.Audit)"},
		{"POST " + groups, form("group", "sbx"), "403 Permission check failed (/, Sys.Modify)"},
		{"GET /cluster/firewall/refs", nil, "403 Permission check failed (/, Sys.Audit)"},
	})
}

func TestFirewallSetsAndAliases(t *testing.T) {
	cl := firewallClient(t)
	const set = fwTestVM + "/ipset/allow"
	cl.run([]step{
		{"POST " + fwTestVM + "/ipset", form("name", "allow"), "null"},
		{"POST " + set, form("cidr", "192.0.2.5/24"), "null"},
		{"POST " + set, form("cidr", "192.0.2.0/24"), "400 cidr: address '192.0.2.0/24' already exists"},
		{"POST " + set, form("cidr", "10.0.0.1/32", "nomatch", "1"), "null"},
		{"POST " + set, form("cidr", "0.0.0.0/0"), "400 cidr: a zero prefix is not allowed in ipset entries"},
		{"POST " + set, form("cidr", "10.0.0.300"), "400 cidr: invalid format - " + notCIDR},
		{"POST " + set, form("cidr", "gate"), "500 no such alias 'gate'"},
		{"GET " + set, nil, `[{"cidr":"10.0.0.1","nomatch":1},{"cidr":"192.0.2.0/24"}]`},
		{"GET " + set + "/192.0.2.0/24", nil, `{"cidr":"192.0.2.0/24"}`},
		{"GET " + set + "/192.0.2.5%2F24", nil, "400 cidr: no such IP/Network"},
		{"PUT " + set + "/10.0.0.1", form("comment", "was excluded"), "null"},
		{"GET " + set + "/10.0.0.1", nil, `{"cidr":"10.0.0.1","comment":"was excluded"}`},
		{"POST " + fwTestRules, form("type", "out", "action", "DROP", "dest", "+allow"), "null"},
		{"DELETE " + set, nil, "500 IPSet 'allow' is not empty"},
		{"DELETE " + set, form("force", "1"), "null"},
		{"GET " + fwTestRules, nil, `[{"action":"DROP","dest":"+allow","enable":0,"errors":{"dest":"no such ipset 'allow'"},"pos":0,"type":"out"}]`},
		{"PUT " + fwTestRules + "/0", form("enable", "1"), "400 dest: no such ipset 'allow'"},

		// Names become lower case when the file is read.
		{"POST " + fwTestVM + "/ipset", form("name", "Web"), "null"},
		{"GET " + fwTestVM + "/ipset/Web", nil, "500 no such IPSet 'Web'"},
		{"GET " + fwTestVM + "/ipset", nil, `[{"name":"web"}]`},

		{"POST " + fwTestVM + "/aliases", form("name", "Gate", "cidr", "10.0.0.1/24", "comment", "gw"), "null"},
		{"GET " + fwTestVM + "/aliases/gate", nil, `{"cidr":"10.0.0.1/24","comment":"gw","ipversion":4,"name":"Gate"}`},
		{"POST " + fwTestRules, form("type", "out", "action", "DROP", "dest", "dc/gate"), "null"},
		{"POST " + fwTestRules, form("type", "out", "action", "DROP", "source", "fd00::1", "dest", "gate"), "500 detected mixed ipv4/ipv6 addresses in rule"},
		{"PUT " + fwTestVM + "/aliases/gate", form("cidr", "fd00::1", "rename", "door"), "null"},
		{"GET " + fwTestVM + "/aliases", nil, `[{"cidr":"fd00::1","ipversion":6,"name":"door"}]`},
		{"GET " + fwTestVM + "/refs", nil, `[{"name":"web","ref":"+web","scope":"guest","type":"ipset"},{"name":"door","ref":"door","scope":"guest","type":"alias"}]`},
	})
}

func TestFirewallGroups(t *testing.T) {
	cl := firewallClient(t)
	const groups = "/cluster/firewall/groups"
	cl.run([]step{
		{"POST " + groups, form("group", "sbx", "comment", "sandbox"), "null"},
		{"POST " + groups + "/sbx", form("type", "in", "action", "ACCEPT", "iface", "net0"), "400 type: parameter -i not allowed for this rule type"},
		{"POST " + groups + "/sbx", form("type", "in", "action", "ACCEPT"), "null"},
		{"POST " + fwTestRules, form("type", "group", "action", "sbx", "enable", "1"), "null"},
		{"POST " + groups, form("group", "box", "rename", "sbx"), "null"},
		{"GET " + groups, nil, `[{"comment":"sandbox","group":"box"}]`},
		{"GET " + fwTestRules, nil, `[{"action":"box","enable":1,"pos":0,"type":"group"}]`},
		{"GET " + groups + "/sbx", nil, "500 no such security group 'sbx'"},
		{"DELETE " + groups + "/box", nil, "500 Security group 'box' is not empty"},
		{"DELETE " + groups + "/box/0", nil, "null"},
		{"DELETE " + groups + "/box", nil, "null"},
		{"GET " + fwTestRules, nil, `[{"action":"box","enable":1,"pos":0,"type":"group"}]`},
	})
}

// TestFirewallFollowsTheVMID: the file is written whether there is a VM or
// not, is that of who gets the VMID, and goes with him.
func TestFirewallFollowsTheVMID(t *testing.T) {
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl"); c.AddVM("pve", 300, "other") })
	options := func(id int) string { return fmt.Sprintf("/nodes/pve/qemu/%d/firewall/options", id) }
	task := func(method, path string, kv ...string) string {
		form := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			form.Add(kv[i], kv[i+1])
		}
		_, reason, upid := cl.call(method, path, form)
		if upid == nil {
			return reason
		}
		return cl.exit(upid)
	}
	cl.run([]step{{"PUT " + options(200), form("enable", "1"), "null"}})
	if exit := task("POST", "/nodes/pve/qemu", "vmid", "200"); exit != "OK" {
		t.Fatal(exit)
	}
	cl.run([]step{
		{"GET " + options(200), nil, `{"enable":1}`},
		// All nodes have the files, but for options one goes to the VM's.
		{"GET /nodes/nosuch/qemu/200/firewall/rules", nil, "[]"},
		{"GET /nodes/nosuch/qemu/200/firewall/options", nil, "500 hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Temporary failure in name resolution"},
	})

	// A clone has that of its source, not what was left at its VMID.
	cl.run([]step{{"PUT " + options(201), form("enable", "1", "radv", "1"), "null"}})
	if exit := task("POST", "/nodes/pve/qemu/9000/clone", "newid", "201"); exit != "OK" {
		t.Fatal(exit)
	}
	cl.run([]step{{"GET " + options(201), nil, "{}"}, {"PUT " + options(9000), form("policy_out", "DROP"), "null"}})
	if exit := task("POST", "/nodes/pve/qemu/9000/clone", "newid", "202"); exit != "OK" {
		t.Fatal(exit)
	}
	cl.run([]step{{"GET " + options(202), nil, `{"policy_out":"DROP"}`}})
	if exit := task("DELETE", "/nodes/pve/qemu/202"); exit != "OK" {
		t.Fatal(exit)
	}
	cl.run([]step{{"GET " + options(202), nil, "{}"}})

	// One that fails leaves nothing.
	cl.srv.Edit(func(*Cluster) { cl.srv.TaskTime = map[string]time.Duration{"qmclone": -1} })
	_, _, upid := cl.call("POST", "/nodes/pve/qemu/9000/clone", url.Values{"newid": {"203"}})
	eventually(t, cl.srv, "the clone is at work", func(c *Cluster) bool { return c.byUPID[fmt.Sprint(upid)].endless })
	cl.run([]step{
		{"GET " + options(203), nil, `{"policy_out":"DROP"}`},
		{"DELETE /nodes/pve/tasks/" + fmt.Sprint(upid), nil, "null"},
		{"GET " + options(203), nil, "{}"},
	})
}

// TestUnknownBridgeOfARunningVM is refused, and yet pending.
func TestUnknownBridgeOfARunningVM(t *testing.T) {
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "web").Config["net0"] = "virtio=BC:24:11:00:00:01,bridge=vmbr0" })
	_, _, upid := cl.call("POST", "/nodes/pve/qemu/100/status/start", nil)
	if exit := cl.exit(upid); exit != "OK" {
		t.Fatal(exit)
	}
	const net = "virtio=BC:24:11:00:00:01,bridge=vmbr77,firewall=1"
	cl.run([]step{{"PUT /nodes/pve/qemu/100/config", form("net0", net, "name", "renamed"), "400 net0: hotplug problem - interface vmbr77 does not exist"}})
	cl.srv.Edit(func(c *Cluster) {
		vm := c.VMs[100]
		if vm.Config["net0"] != "virtio=BC:24:11:00:00:01,bridge=vmbr0" || vm.Pending["net0"] != net || vm.Config["name"] != "renamed" {
			t.Errorf("net0 is %s, pending %s, the name is %s", vm.Config["net0"], vm.Pending["net0"], vm.Config["name"])
		}
	})
}
