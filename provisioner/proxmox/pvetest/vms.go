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

const vmPath = "/nodes/{node}/qemu/{vmid}"

func vmRoutes() []*route {
	const anyConfig = "/vms/{vmid} VM.Config.Disk|VM.Config.CDROM|VM.Config.CPU|VM.Config.Memory|VM.Config.Network|VM.Config.HWType|VM.Config.Options|VM.Config.Cloudinit"
	options, options9 := optionText(vmOptions), optionText(vmOptions9)
	const edit = " delete=configid-list digest=string,len=40 force=bool,needs=delete revert=configid-list skiplock=bool "
	const power = "/vms/{vmid} VM.PowerMgmt"
	return []*route{
		{method: "GET", path: "/nodes/{node}/qemu", call: listVMs, daemon: true, params: "full=bool"},
		{method: "POST", path: "/nodes/{node}/qemu", call: createVM, daemon: true, params9: options9 + " ha-managed=bool",
			params: "vmid!=vmid " + options + " archive=string,len=255 bwlimit=int,min=0 force=bool live-restore=bool pool=poolid start=bool storage=storage-id unique=bool import-working-storage=storage-id"},
		{method: "GET", path: vmPath, call: vmIndex},
		{method: "DELETE", path: vmPath, call: destroyVM, daemon: true, perm: "/vms/{vmid} VM.Allocate",
			params: "skiplock=bool purge=bool destroy-unreferenced-disks=bool"},
		{method: "GET", path: vmPath + "/config", call: getConfig, perm: "/vms/{vmid} VM.Audit", params: "current=bool snapshot=configid,len=40"},
		{method: "PUT", path: vmPath + "/config", call: putConfig, daemon: true, perm: anyConfig, params: options + edit, params9: options9},
		{method: "POST", path: vmPath + "/config", call: postConfig, daemon: true, perm: anyConfig,
			params: options + edit + "background_delay=int,min=1,max=30 import-working-storage=storage-id", params9: options9},
		{method: "GET", path: vmPath + "/pending", call: getPending, perm: "/vms/{vmid} VM.Audit"},
		{method: "GET", path: vmPath + "/cloudinit", call: getCloudinit, perm: "/vms/{vmid} VM.Audit"},
		{method: "GET", path: vmPath + "/cloudinit/dump", call: dumpCloudinit, perm: "/vms/{vmid} VM.Audit", params: "type!=enum:user/network/meta"},
		{method: "GET", path: vmPath + "/status", call: statusIndex},
		{method: "GET", path: vmPath + "/status/current", call: currentStatus, daemon: true, perm: "/vms/{vmid} VM.Audit",
			shows: "agent clipboard cpu cpus diskread diskwrite ha lock maxdisk maxmem mem name netin netout pid qmpstatus" +
				" running-machine running-qemu serial spice status tags template uptime vmid"},
		{method: "POST", path: vmPath + "/status/start", call: startVM, daemon: true, perm: power, params9: "with-conntrack-state=bool",
			params: "skiplock=bool timeout=int,min=0 force-cpu=string machine=property migratedfrom=node migration_network=string" +
				" migration_type=enum:secure/insecure stateuri=string,len=128 targetstorage=string nets-host-mtu=string"},
		{method: "POST", path: vmPath + "/status/stop", call: stopVM, daemon: true, perm: power,
			params: "skiplock=bool timeout=int,min=0 keepActive=bool migratedfrom=node overrule-shutdown=bool"},
		{method: "POST", path: vmPath + "/status/shutdown", call: shutdownVM, daemon: true, perm: power,
			params: "skiplock=bool timeout=int,min=0 forceStop=bool keepActive=bool"},
		{method: "POST", path: vmPath + "/status/reboot", call: rebootVM, daemon: true, perm: power, params: "timeout=int,min=0"},
		{method: "POST", path: vmPath + "/status/reset", call: resetVM, daemon: true, perm: power, params: "skiplock=bool"},
		{method: "POST", path: vmPath + "/status/suspend", call: suspendVM, daemon: true, perm: power,
			params: "skiplock=bool todisk=bool statestorage=storage-id,needs=todisk"},
		{method: "POST", path: vmPath + "/status/resume", call: resumeVM, daemon: true, perm: power, params: "skiplock=bool nocheck=bool"},
		{method: "POST", path: vmPath + "/clone", call: cloneVM, daemon: true, perm: "!clone",
			params: "newid!=vmid name=dns-name description pool=poolid snapname=configid,len=40 storage=storage-id format=enum:raw/qcow2/vmdk full=bool target=node bwlimit=int,min=0"},
		{method: "POST", path: vmPath + "/template", call: makeTemplate, daemon: true, perm: "/vms/{vmid} VM.Allocate", params: "disk=string"},
	}
}

func vmIndex(c *call) (any, error) {
	out := []map[string]any{}
	for d := range strings.FieldsSeq("config cloudinit pending status unlink vncproxy termproxy migrate resize move rrd rrddata monitor agent snapshot spiceproxy sendkey firewall mtunnel remote_migrate") {
		out = append(out, map[string]any{"subdir": d})
	}
	return out, nil
}

func (vm *VM) status() string {
	if vm.Running {
		return "running"
	}
	return "stopped"
}

func (vm *VM) uptime() int {
	if !vm.Running {
		return 0
	}
	return int(time.Since(vm.started).Seconds())
}

func (vm *VM) cores() int {
	n := max(params{"n": vm.Config["cores"]}.num("n"), 1)
	return n * max(params{"n": vm.Config["sockets"]}.num("n"), 1)
}

// memory in bytes.
func (vm *VM) memory() int64 {
	props, _ := splitProperties(vm.Config["memory"], "current")
	mb := int64(props.num("current"))
	if mb == 0 {
		mb = 512
	}
	return mb << 20
}

// bootSize is the size of the first disk that is booted from.
func (vm *VM) bootSize() int64 {
	for _, key := range vm.bootOrder() {
		if v, ok := vm.Config[key]; ok {
			return parseSize(parseDrive(key, v).props.str("size"))
		}
	}
	return 0
}

// agentEnabled says whether the agent option switches the agent on, and
// whether there is such an option.
func (vm *VM) agentEnabled() (enabled, configured bool) {
	v, ok := vm.Config["agent"]
	props, _ := splitProperties(v, "enabled")
	return ok && props.flag("enabled"), ok
}

// digest is over the whole configuration: a value that is set again to what it
// was gives the same.
func (vm *VM) digest() string {
	h := sha1.New() //nolint:gosec // as PVE
	for _, k := range slices.Sorted(maps.Keys(vm.Config)) {
		_, _ = fmt.Fprintf(h, "%s: %q\n", k, vm.Config[k])
	}
	for _, k := range slices.Sorted(maps.Keys(vm.Pending)) {
		_, _ = fmt.Fprintf(h, "pending %s: %q\n", k, vm.Pending[k])
	}
	for _, sn := range vm.Snapshots {
		_, _ = fmt.Fprintf(h, "[%s] %q\n", sn.Name, sn.Description)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func listVMs(c *call) (any, error) {
	out := []map[string]any{}
	for id, vm := range c.s.c.VMs {
		if vm.Node != c.node.Name || !c.allowed("/vms/"+strconv.Itoa(id), "VM.Audit") {
			continue
		}
		e := c.shortStatus(vm)
		if c.p.flag("full") {
			e["qmpstatus"] = qmpStatus(vm)
		}
		out = append(out, e)
	}
	return out, nil
}

func qmpStatus(vm *VM) string {
	if !vm.Running {
		return "stopped"
	}
	return vm.QMPStatus
}

// shortStatus is what a list of VMs says of one (QemuServer.pm vmstatus).
func (c *call) shortStatus(vm *VM) map[string]any {
	e := map[string]any{
		"vmid": vm.ID, "name": vm.name(), "status": vm.status(), "cpus": vm.cores(), "maxmem": vm.memory(), "maxdisk": vm.bootSize(),
		"cpu": 0, "mem": 0, "disk": 0, "netin": 0, "netout": 0, "uptime": vm.uptime(),
	}
	if t := vm.Config["tags"]; t != "" {
		e["tags"] = t
	}
	if l := vm.Config["lock"]; l != "" {
		e["lock"] = l
	}
	if vm.template() {
		e["template"] = 1
	}
	if strings.HasPrefix(vm.Config["vga"], "serial") || vm.Config["serial0"] != "" {
		e["serial"] = 1
	}
	if vm.Running {
		e["pid"] = vm.pid
	}
	return e
}

func statusIndex(c *call) (any, error) {
	if _, err := c.vm(); err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for d := range strings.FieldsSeq("current start stop reset shutdown suspend reboot") {
		out = append(out, map[string]any{"subdir": d})
	}
	return out, nil
}

func currentStatus(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	e := c.shortStatus(vm)
	e["qmpstatus"], e["ha"] = qmpStatus(vm), map[string]any{"managed": 0}
	if on, _ := vm.agentEnabled(); on {
		e["agent"] = 1
	}
	if vm.Config["vga"] != "" {
		e["clipboard"] = nil
	}
	if !vm.Running {
		return e, nil
	}
	nics := map[string]any{}
	for k := range vm.Config {
		if n, ok := strings.CutPrefix(k, "net"); ok {
			nics[fmt.Sprintf("tap%di%s", vm.ID, n)] = map[string]any{"netin": 0, "netout": 0}
		}
	}
	e["nics"] = nics
	if c.s.release() >= 900 {
		e["memhost"] = 0
		for k := range strings.FieldsSeq("pressurecpusome pressurecpufull pressureiosome pressureiofull pressurememorysome pressurememoryfull") {
			e[k] = 0
		}
	}
	return e, nil
}
