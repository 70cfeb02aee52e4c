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
	for _, k := range slices.Sorted(maps.Keys(ch.set)) {
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
		c.s.c.freeVolume(v)
	case driveKey.MatchString(key):
		if vm.Config["protection"] == "1" {
			return die("can't remove drive '%s' - protection mode enabled", key)
		}
		c.detach(vm, key, c.p.flag("force"))
		return nil
	case vm.Running && !hotplugged(key):
		vm.Deleted[key] = true
		return nil
	}
	delete(vm.Config, key)
	return nil
}

// detach takes a disk off; its volume becomes unusedN if the VM owns it.
func (c *call) detach(vm *VM, key string, destroy bool) {
	d := parseDrive(key, vm.Config[key])
	delete(vm.Config, key)
	vol := c.s.c.Volumes[d.file]
	switch {
	case vol == nil || vol.VMID != vm.ID:
	case destroy || d.cloudinit():
		c.s.c.freeVolume(d.file)
	default:
		vm.addUnused(d.file)
	}
}

func (vm *VM) addUnused(volume string) {
	for i := range 256 {
		if k := "unused" + strconv.Itoa(i); vm.Config[k] == "" {
			vm.Config[k] = volume
			return
		}
	}
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

var allocateText = regexp.MustCompile(`^\d+(\.\d+)?$`)

// allocates says whether STORAGE:rest asks for a new volume of so many GiB.
func allocates(rest string) bool { return allocateText.MatchString(rest) }

// setDrive attaches a volume, or makes one: STORAGE:GiB, STORAGE:cloudinit,
// STORAGE:0,import-from=VOLUME.
func (c *call) setDrive(vm *VM, key, v string) error {
	d := parseDrive(key, v)
	store, rest := cutVolume(d.file)
	if old := vm.Config[key]; old != "" && parseDrive(key, old).file != d.file {
		c.detach(vm, key, false)
	}
	switch {
	case rest == "cloudinit":
		id, err := c.allocate(store, vm, "cloudinit", 4<<20, "qcow2")
		if err != nil {
			return err
		}
		d.file = id
		d.set("media", "cdrom")
	case allocates(rest):
		if err := c.newDisk(vm, store, rest, &d); err != nil {
			return err
		}
	default:
		if vol := c.s.c.Volumes[d.file]; vol != nil {
			d.set("size", sizeText(vol.Size))
		} else if d.file != "none" && d.file != "cdrom" {
			return die("volume '%s' does not exist", d.file)
		}
		maps.DeleteFunc(vm.Config, func(k, val string) bool { return strings.HasPrefix(k, "unused") && val == d.file })
	}
	vm.Config[key] = d.String()
	return nil
}

func (c *call) newDisk(vm *VM, store, gib string, d *drive) error {
	size, format, stock := parseSize(gib+"G"), d.props.str("format"), false
	if from := d.props.str("import-from"); from != "" {
		src := c.s.c.Volumes[from]
		if src == nil {
			return die("unable to create VM %d - failed to stat '%s'", vm.ID, volumePath(from))
		}
		size, stock = src.Size, src.Stock
		if format == "" {
			format = src.Format
		}
	}
	if format == "" {
		format = "raw"
	}
	id, err := c.allocate(store, vm, "", size, format)
	if err != nil {
		return err
	}
	d.file = id
	c.s.c.Volumes[id].Stock = stock
	delete(d.props, "import-from")
	delete(d.props, "format")
	d.set("size", sizeText(size))
	return nil
}

// allocate makes a volume vm-ID-disk-N, or vm-ID-kind.
func (c *call) allocate(store string, vm *VM, kind string, size int64, format string) (string, error) {
	st := c.s.c.storage(store)
	if st == nil {
		return "", die("storage '%s' does not exist", store)
	}
	if st.Full {
		return "", die("unable to create image: qemu-img: /var/lib/vz/images/%d/vm-%d-disk-0.%s: No space left on device", vm.ID, vm.ID, format)
	}
	name := kind
	for i := 0; kind == "" && (name == "" || c.s.c.taken(vm.ID, name)); i++ {
		name = "disk-" + strconv.Itoa(i)
	}
	owner := "vm"
	if vm.template() && kind == "" { // it is made a base at once (measured)
		owner = "base"
	}
	id := fmt.Sprintf("%s:%d/%s-%d-%s.%s", store, vm.ID, owner, vm.ID, name, format)
	c.s.c.addVolume(id, vm.Node, vm.ID, size, "")
	return id, nil
}

// taken says whether a VM has a volume of that name, whatever its format or
// its base.
func (c *Cluster) taken(vmid int, name string) bool {
	for id := range c.Volumes {
		for _, kind := range []string{"vm", "base"} {
			if strings.Contains(id, fmt.Sprintf(":%d/%s-%d-%s.", vmid, kind, vmid, name)) || strings.Contains(id, fmt.Sprintf("/%d/%s-%d-%s.", vmid, kind, vmid, name)) {
				return true
			}
		}
	}
	return false
}

func (c *Cluster) freeVolume(id string) { delete(c.Volumes, id) }

// applyPending is what a restart does.
func (vm *VM) applyPending() {
	maps.Copy(vm.Config, vm.Pending)
	for k := range vm.Deleted {
		delete(vm.Config, k)
	}
	clear(vm.Pending)
	clear(vm.Deleted)
}
