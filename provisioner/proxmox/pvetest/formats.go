package pvetest

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// textFormats are the formats of PVE::JSONSchema that a pattern decides, with
// what PVE says of a value that does not match.
var textFormats = map[string]textFormat{
	"vmid":        text(`[1-9][0-9]{2,8}`, "value does not look like a valid VM ID"),
	"node":        text(`[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?`, "value does not look like a valid node name"),
	"storage-id":  text(`[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]`, "storage ID '%s' contains illegal characters"),
	"poolid":      text(`[A-Za-z0-9.\-_]+(/[A-Za-z0-9.\-_]+){0,2}`, "value does not look like a valid pool name"),
	"configid":    text(`[A-Za-z][A-Za-z0-9_-]+`, "invalid configuration ID '%s'"),
	"dns-name":    text(label+`(\.`+label+`)*`, "value does not look like a valid DNS name"),
	"roleid":      text(`[A-Za-z0-9.\-_]+`, "value does not look like a valid role ID"),
	"userid":      text(user, "value does not look like a valid user name"),
	"tokenid":     text(user+`![A-Za-z][A-Za-z0-9.\-_]+`, "value does not look like a valid token ID"),
	"tag":         text(`(?i:[a-z0-9_][a-z0-9_\-+.]*)`, "invalid characters in tag"),
	"task-status": text(`ok|error|warning|unknown`, "invalid status '%s'"),
	"bridge":      text(`[-_.\w]+`, "value does not look like a valid bridge ID"),
	"mac":         text(`(?i:[a-f0-9][02468ace](:[a-f0-9]{2}){5})`, "value does not look like a valid unicast MAC address"),
	"volume":      text(`[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]:.+`, "unable to parse volume ID '%s'"),
	"iface":       text(`(?i:[a-z][a-z0-9_]{1,20})([:.]\d+)?`, "invalid network interface name '%s'"),
	"digest":      text(`.{0,40}`, "value is no digest"),
}

const (
	label = `[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?`
	user  = `[^\s:/!]+@[A-Za-z][A-Za-z0-9.\-_]+`
)

type textFormat struct {
	pattern *regexp.Regexp
	message string // may have a %s for the value
}

func text(pattern, message string) textFormat {
	return textFormat{regexp.MustCompile("^(?:" + pattern + ")$"), message}
}

// propertyFormats are property strings: their parts, and the key that may be
// left out.
var propertyFormats = map[string]struct {
	defaultKey string
	props      map[string]*param
}{
	"net": {"model", parseParams("model!=enum:" + strings.Join(netModels, "/") +
		" bridge=bridge macaddr=mac firewall=bool link_down=bool mtu=int,min=1,max=65520 queues=int,min=0,max=64" +
		" rate=num,min=0 tag=int,min=1,max=4094 trunks=string")},
	"agent":      {"enabled", parseParams("enabled!=bool freeze-fs-on-backup=bool fstrim_cloned_disks=bool type=enum:virtio/isa")},
	"memory":     {"current", parseParams("current=int,min=16")},
	"cicustom":   {"", parseParams("meta=volume network=volume user=volume vendor=volume")},
	"next-id":    {"", parseParams("lower=int,min=100,max=999999999 upper=int,min=100,max=1000000000")},
	"tag-access": {"", parseParams("user-allow=enum:none/list/existing/free user-allow-list=string")},
	"tag-style":  {"", parseParams("case-sensitive=bool color-map=string ordering=enum:config/alphabetical shape=enum:full/circle/dense/none")},
	"ipconfig":   {"", parseParams("ip=ipv4-config gw=ip,needs=ip ip6=ipv6-config gw6=ip,needs=ip6")},
	"ide":        {"file", parseParams(anyDrive + " model=urlencoded,len=120 ssd=bool wwn=string")},
	"sata":       {"file", parseParams(anyDrive + " ssd=bool wwn=string")},
	"scsi":       {"file", parseParams(anyDrive + " iothread=bool product=string queues=int,min=2 ro=bool scsiblock=bool ssd=bool vendor=string wwn=string")},
	"virtio":     {"file", parseParams(anyDrive + " iothread=bool ro=bool")},
	"efidisk":    {"file", parseParams("file!=drive-file format=" + diskFormats + " size=string efitype=enum:2m/4m pre-enrolled-keys=bool ms-cert=string import-from=string")},
	"tpmstate":   {"file", parseParams("file!=drive-file format=" + diskFormats + " size=string version=enum:v1.2/v2.0 import-from=string")},
	"unused":     {"file", parseParams("file!=drive-file")},
}

// anyDrive are the properties of the drives of all buses (QemuServer/Drive.pm).
const (
	anyDrive = "file!=drive-file aio=enum:native/threads/io_uring backup=bool cache=enum:none/writethrough/writeback/unsafe/directsync cyls=int" +
		" detect_zeroes=bool discard=enum:ignore/on format=" + diskFormats + " heads=int import-from=string media=enum:cdrom/disk" +
		" rerror=enum:ignore/report/stop replicate=bool secs=int serial=urlencoded,len=60 shared=bool size=string snapshot=bool" +
		" trans=enum:none/lba/auto werror=enum:enospc/ignore/report/stop" +
		" bps=int bps_rd=int bps_wr=int bps_max_length=int,min=1 bps_rd_max_length=int,min=1 bps_wr_max_length=int,min=1" +
		" mbps=num mbps_max=num mbps_rd=num mbps_rd_max=num mbps_wr=num mbps_wr_max=num" +
		" iops=int iops_max=int iops_rd=int iops_rd_max=int iops_wr=int iops_wr_max=int" +
		" iops_max_length=int,min=1 iops_rd_max_length=int,min=1 iops_wr_max_length=int,min=1"
	diskFormats = "enum:raw/qcow/qed/qcow2/vmdk/cloop"
)

var netModels = []string{"e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b",
	"i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3"}

// checkFormat returns what PVE says of a value of the parameter name, or
// nothing. Formats without a check here take any text: "property" stands for
// property strings that nobody here looks into.
func checkFormat(format, name, v string) string {
	if one, ok := strings.CutSuffix(format, "-list"); ok {
		for _, e := range splitList(v) {
			if msg := checkFormat(one, name, e); msg != "" {
				return msg
			}
		}
		return ""
	}
	if f, ok := textFormats[format]; ok {
		switch {
		case f.pattern.MatchString(v):
			return ""
		case strings.Contains(f.message, "%s"):
			return fmt.Sprintf(f.message, v)
		}
		return f.message
	}
	if f, ok := propertyFormats[format]; ok {
		return checkProperties(name, v, f.defaultKey, f.props)
	}
	if wrong, ok := fwFormats[format]; ok {
		return wrong(v)
	}
	switch format {
	case "drive-file":
		if v == "none" || v == "cdrom" || strings.HasPrefix(v, "/") {
			return ""
		}
		return checkFormat("volume", name, v)
	case "urlencoded":
		return urlencoded(v)
	case "ip":
		return ipAddress(v)
	case "ipv4-config":
		return ipConfig(v, "ipv4", netip.Addr.Is4)
	case "ipv6-config":
		return ipConfig(v, "ipv6", netip.Addr.Is6)
	}
	return ""
}

var listSeparators = regexp.MustCompile(`[,;\s\x00]+`)

// splitList is PVE::Tools::split_list.
func splitList(v string) []string {
	return slices.DeleteFunc(listSeparators.Split(v, -1), func(e string) bool { return e == "" })
}

var urlencodedText = regexp.MustCompile(`^[-%a-zA-Z0-9_.!~*'()]*$`)

// urlencoded is QemuServer.pm:840: only what uri_escape leaves.
func urlencoded(v string) string {
	if _, err := url.PathUnescape(v); err != nil || !urlencodedText.MatchString(v) {
		return "invalid urlencoded string: " + v
	}
	return ""
}

func ipAddress(v string) string {
	if _, err := netip.ParseAddr(v); err != nil {
		return "value is not a valid IP address"
	}
	return ""
}

func ipConfig(v, family string, is func(netip.Addr) bool) string {
	if v == "dhcp" || v == "manual" || family == "ipv6" && v == "auto" {
		return ""
	}
	if p, err := netip.ParsePrefix(v); err != nil || !is(p.Addr()) {
		return "value does not look like a valid " + family + " network configuration"
	}
	return ""
}

// checkProperties checks a property string: key=value,... with one key that
// may be left out. name is what its messages start with.
func checkProperties(name, v, def string, specs map[string]*param) string {
	props, ok := splitProperties(v, def)
	if !ok {
		return "format error\n" + name + ": value without key, but schema does not define a default key"
	}
	errs := props.check(specs)
	if len(errs) == 0 {
		return ""
	}
	var msg strings.Builder
	msg.WriteString("format error")
	for _, k := range slices.Sorted(maps.Keys(errs)) {
		text := strings.Replace(errs[k], "missing property - '", "missing property - '"+name+".", 1)
		msg.WriteString("\n" + name + "." + k + ": " + text)
	}
	return msg.String()
}

// splitProperties reads a property string. A model of a network card may be a
// key whose value is the MAC address.
func splitProperties(v, def string) (params, bool) {
	props := params{}
	for part := range strings.SplitSeq(v, ",") {
		k, val, ok := strings.Cut(part, "=")
		switch {
		case !ok && def == "":
			return nil, false
		case !ok:
			k, val = def, part
		case def == "model" && slices.Contains(netModels, k):
			props["model"], k = k, "macaddr"
		}
		props[k] = val
	}
	return props, true
}
