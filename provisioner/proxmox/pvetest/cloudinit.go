package pvetest

import (
	"crypto/sha1" //nolint:gosec // PVE's instance id is a SHA-1
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

var cloudinitKey = regexp.MustCompile(`^(ci.*|sshkeys|ipconfig\d+|nameserver|searchdomain)$`)

// getCloudinit lists what the next drive will be generated from.
func getCloudinit(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(vm.Config)) {
		if cloudinitKey.MatchString(k) && !strings.HasPrefix(k, "ipconfig") && k != "ciupgrade" {
			out = append(out, map[string]any{"key": k, "value": vm.Config[k]})
		}
	}
	return out, nil
}

func dumpCloudinit(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	return CloudInit(vm.name(), vm.Config, c.p.str("type")), nil
}

// CloudInit generates a file of the cloud-init drive: user, network or meta
// (QemuServer/Cloudinit.pm, nocloud). A guest that boots gets them so.
func CloudInit(name string, conf map[string]string, kind string) string {
	switch kind {
	case "user":
		return userData(name, conf)
	case "network":
		return networkData(conf)
	}
	return fmt.Sprintf("instance-id: %x\n", sha1.Sum([]byte(userData(name, conf)+networkData(conf)))) //nolint:gosec // as PVE
}

func userData(name string, conf map[string]string) string {
	var out strings.Builder
	out.WriteString("#cloud-config\nhostname: " + name + "\nmanage_etc_hosts: true\n")
	if d := conf["searchdomain"]; d != "" {
		out.WriteString("fqdn: " + name + "." + d + "\n")
	} else {
		out.WriteString("fqdn: " + name + "\n")
	}
	user := conf["ciuser"]
	if user != "" {
		out.WriteString("user: " + user + "\n")
	}
	if user == "root" {
		out.WriteString("disable_root: False\n")
	}
	if conf["cipassword"] != "" {
		out.WriteString("password: " + conf["cipassword"] + "\n")
	}
	if keys, err := url.PathUnescape(conf["sshkeys"]); err == nil && keys != "" {
		out.WriteString("ssh_authorized_keys:\n")
		for line := range strings.Lines(strings.TrimSpace(keys)) {
			out.WriteString("  - " + strings.TrimSpace(line) + "\n")
		}
	}
	out.WriteString("chpasswd:\n  expire: False\n")
	if user != "root" {
		out.WriteString("users:\n  - default\n")
	}
	if conf["ciupgrade"] != "0" {
		out.WriteString("package_upgrade: true\n")
	}
	return out.String()
}

func networkData(conf map[string]string) string {
	var out strings.Builder
	out.WriteString("version: 1\nconfig:\n")
	for i := range maxIndex("net") {
		net, ip := conf[fmt.Sprintf("net%d", i)], conf[fmt.Sprintf("ipconfig%d", i)]
		if net == "" || ip == "" {
			continue
		}
		props, _ := splitProperties(net, "model")
		fmt.Fprintf(&out, "    - type: physical\n      name: eth%d\n      mac_address: '%s'\n      subnets:\n", i, strings.ToLower(props.str("macaddr")))
		cfg, _ := splitProperties(ip, "")
		switch v := cfg.str("ip"); v {
		case "":
		case "dhcp":
			out.WriteString("      - type: dhcp4\n")
		default:
			addr, _, _ := strings.Cut(v, "/")
			fmt.Fprintf(&out, "      - type: static\n        address: '%s'\n        netmask: '255.255.255.0'\n", addr)
			if gw := cfg.str("gw"); gw != "" {
				out.WriteString("        gateway: '" + gw + "'\n")
			}
		}
	}
	ns := conf["nameserver"]
	if ns == "" && conf["searchdomain"] == "" {
		ns = "10.255.255.53" // without settings the host's go in (measured)
	}
	out.WriteString("    - type: nameserver\n      address:\n")
	for _, a := range splitList(ns) {
		out.WriteString("      - '" + a + "'\n")
	}
	if d := conf["searchdomain"]; d != "" {
		out.WriteString("      search:\n      - '" + d + "'\n")
	}
	return out.String()
}
