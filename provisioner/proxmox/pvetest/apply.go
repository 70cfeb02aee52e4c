package pvetest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// atOnce are options that take effect on a running VM; others wait for its
// restart (QemuServer.pm fast_plug_option; net and disks are hot-plugged).
var atOnce = []string{"lock", "name", "onboot", "shares", "startup", "description", "protection", "vmstatestorage", "hookscript", "tags", "migrate_speed", "migrate_downtime"}

func hotplugged(key string) bool {
	return slices.Contains(atOnce, key) || driveKey.MatchString(key) || strings.HasPrefix(key, "unused") || netKey.MatchString(key)
}

var netKey = regexp.MustCompile(`^net\d+$`)

// applyChange writes a change that has been checked.
func (c *call) applyChange(vm *VM, ch *change) error {
	vm.changed = time.Now()
	for _, k := range ch.delete {
		if err := c.deleteOption(vm, k); err != nil {
			return err
		}
	}
	var unplugged error
	for _, k := range c.options(ch) {
		if bridge := c.missingBridge(k, ch.set[k]); vm.Running && bridge != "" {
			// What can't be plugged in is refused, and yet waits for the restart (measured).
			vm.Pending[k] = withMAC(ch.set[k])
			unplugged = badParam(k, "hotplug problem - interface %s does not exist\n", bridge)
			continue
		}
		if err := c.setOption(vm, k, ch.set[k]); err != nil {
			return err
		}
	}
	vm.forgetUsed()
	return unplugged
}

// missingBridge is what a network card is to be on and the node has not.
func (c *call) missingBridge(key, v string) string {
	props, _ := splitProperties(v, "model")
	if b := props.str("bridge"); netKey.MatchString(key) && b != "" && !c.node.hasBridge(b) {
		return b
	}
	return ""
}

func (c *call) deleteOption(vm *VM, key string) error {
	v, ok := vm.Config[key]
	delete(vm.Pending, key)
	switch {
	case !ok:
		return nil
	case strings.HasPrefix(key, "unused"):
		if vm.Config["protection"] == "1" {
			return die("can't remove unused disk '%s' - protection mode enabled", v)
		}
		if err := c.deallocate(vm, key, v); err != nil {
			return err
		}
	case driveKey.MatchString(key):
		if vm.Config["protection"] == "1" {
			return die("can't remove drive '%s' - protection mode enabled", key)
		}
		return c.detach(vm, key, c.p.flag("force"))
	case vm.Running && !hotplugged(key):
		vm.Deleted[key] = true
		return nil
	}
	delete(vm.Config, key)
	return nil
}

func (c *call) setOption(vm *VM, key, v string) error {
	switch {
	case key == "description":
		if v == "\n" {
			return nil // the old one stays (measured)
		}
		if v = strings.TrimRight(v, " \t\r\n"); v == "" {
			delete(vm.Config, key)
			return nil
		}
	case key == "tags":
		v = strings.Join(c.storedTags(v), ";")
		if v == "" {
			v = " "
		}
	case netKey.MatchString(key):
		v = withMAC(v)
	case driveKey.MatchString(key):
		return c.setDrive(vm, key, v)
	case key == "vmgenid" && v == "1":
		v = newUUID()
	}
	if o, _ := c.s.c.option(key); o.param != nil && o.kind == "boolean" {
		v = strconv.Itoa(number(isTrue(v)))
	}
	if vm.Running && !hotplugged(key) && vm.Config[key] != v {
		vm.Pending[key] = v
		delete(vm.Deleted, key)
		return nil
	}
	delete(vm.Pending, key)
	delete(vm.Deleted, key)
	vm.Config[key] = v
	return nil
}

func (c *call) storedTags(v string) []string {
	style, _ := splitProperties(c.s.c.Options["tag-style"], "")
	tags := splitList(v)
	if !style.flag("case-sensitive") {
		tags = splitList(strings.ToLower(v))
	}
	if style.str("ordering") != "config" {
		tags = slices.Sorted(slices.Values(tags))
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(tags, func(t string) bool {
		defer func() { seen[t] = true }()
		return seen[t]
	})
}

// withMAC gives a network card a fresh address if the value has none: also
// when the card had one (measured).
func withMAC(v string) string {
	props, _ := splitProperties(v, "model")
	mac := props.str("macaddr")
	if mac == "" {
		mac = newMAC()
	}
	var out strings.Builder
	out.WriteString(props.str("model") + "=" + strings.ToUpper(mac))
	for part := range strings.SplitSeq(v, ",") {
		k, _, _ := strings.Cut(part, "=")
		if k != "macaddr" && k != "model" && !slices.Contains(netModels, k) {
			out.WriteString("," + part)
		}
	}
	return out.String()
}

// applyPending is what a restart does.
func (vm *VM) applyPending() {
	maps.Copy(vm.Config, vm.Pending)
	for k := range vm.Deleted {
		delete(vm.Config, k)
	}
	clear(vm.Pending)
	clear(vm.Deleted)
}
