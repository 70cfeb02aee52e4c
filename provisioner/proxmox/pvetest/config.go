package pvetest

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// getConfig shows pending values as if they were there, unless current is asked.
func getConfig(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	conf := maps.Clone(vm.Config)
	if name := c.p.str("snapshot"); name != "" {
		sn := vm.snapshot(name)
		if sn == nil {
			return nil, die("snapshot '%s' does not exist", name)
		}
		conf = sn.Config
	} else if !c.p.flag("current") {
		maps.Copy(conf, vm.Pending)
		maps.DeleteFunc(conf, func(k, _ string) bool { return vm.Deleted[k] })
	}
	out := c.configJSON(conf)
	out["digest"] = vm.digest()
	if vm.Parent != "" && !c.p.has("snapshot") {
		out["parent"] = vm.Parent
	}
	return out, nil
}

func (c *call) configJSON(conf map[string]string) map[string]any {
	out := make(map[string]any, len(conf)+1)
	for k, v := range conf {
		o, _ := c.s.c.option(k)
		out[k] = jsonValue(o.param, v)
		if k == "cipassword" {
			out[k] = "**********"
		}
	}
	return out
}

func getPending(c *call) (any, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	out := []map[string]any{{"key": "digest", "value": vm.digest()}}
	for k, v := range c.configJSON(vm.Config) {
		e := map[string]any{"key": k, "value": v}
		if p, ok := vm.Pending[k]; ok {
			e["pending"] = p
		}
		if vm.Deleted[k] {
			e["delete"] = 1
		}
		out = append(out, e)
	}
	for k, v := range vm.Pending {
		if _, ok := vm.Config[k]; !ok {
			out = append(out, map[string]any{"key": k, "pending": v})
		}
	}
	return out, nil
}

// putConfig is synchronous, also in waiting for the lock.
func putConfig(c *call) (any, error) { return c.updateConfig(false) }

// postConfig does the same in a task; what is wrong with the values is still
// an error of the call.
func postConfig(c *call) (any, error) { return c.updateConfig(true) }

func (c *call) updateConfig(async bool) (any, error) {
	if err := c.rootOnly("skiplock"); err != nil {
		return nil, err
	}
	change, err := c.readChange()
	if err != nil {
		return nil, err
	}
	old := c.s.c.VMs[c.vmid()]
	if old == nil {
		old = &VM{ID: c.vmid()}
	}
	if err := c.changePermitted(old, change); err != nil {
		return nil, err
	}
	if err := c.drivesAccessible(c.vmid(), change); err != nil {
		return nil, err
	}
	free, err := c.s.lockVM(c.ctx(), c.say, c.vmid(), false, lockWait)
	if err != nil {
		return nil, err
	}
	vm, err := c.changeable(change)
	if err != nil || !async {
		defer free()
		if err == nil {
			c.sayUpdate()
			err = c.applyChange(vm, change)
		}
		return nil, err
	}
	free()
	return c.forkUpdate(vm.ID, change)
}

// forkUpdate makes a change in a task.
func (c *call) forkUpdate(vmid int, change *change) (any, error) {
	upid, err := c.forkAwaited("background_delay", "qmconfig", strconv.Itoa(vmid), func(j *job) error {
		c.sayUpdate()
		return j.locked(vmid, func() error {
			vm, err := c.changeable(change)
			if err != nil {
				return err
			}
			if err := j.spend(); err != nil {
				return err
			}
			return c.applyChange(vm, change)
		})
	})
	if err != nil {
		err = die("failed to update VM %d: %v", vmid, err)
	}
	return upid, err
}

// changeable checks what only the configuration can tell.
func (c *call) changeable(change *change) (*VM, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	if d := c.p.str("digest"); d != "" && d != vm.digest() {
		return nil, die("checksum mismatch (file change by other user?)")
	}
	if !c.p.flag("skiplock") && !slices.Contains(change.delete, "lock") {
		if err := vm.checkLock(); err != nil {
			return nil, err
		}
	}
	return vm, nil
}

// rootOnly refuses an option to all but root@pam with a ticket or pvesh.
func (c *call) rootOnly(names ...string) error {
	for _, name := range names {
		if c.p.has(name) && !c.who.root() {
			return badParam(name, "Only root may use this option.")
		}
	}
	return nil
}

// change is what an update of the configuration sets and deletes.
type change struct {
	set    map[string]string
	delete []string
}

// readChange checks the values as far as it can be done without the VM.
func (c *call) readChange() (*change, error) {
	ch := &change{set: map[string]string{}, delete: c.p.list("delete")}
	for k, v := range c.p {
		if _, ok := c.s.c.option(k); ok {
			ch.set[k], _ = v.(string)
		}
	}
	for _, k := range ch.delete {
		if _, ok := c.s.c.option(k); !ok {
			return nil, badParam("delete", "unknown option '%s'", k)
		}
		if _, both := ch.set[k]; both {
			return nil, badParam("delete", "you can't use '-%s' and -delete %s' at the same time", k, k)
		}
	}
	if v := ch.set["hookscript"]; v != "" && c.s.c.Volumes[v] == nil {
		return nil, badParam("hookscript", "script '%s' does not exist\n", v)
	}
	if v, ok := ch.set["sshkeys"]; ok && !validKeys(v) {
		return nil, die("SSH public key validation error")
	}
	for _, k := range slices.Sorted(maps.Keys(ch.set)) {
		if err := c.checkDrive(k, ch.set[k]); err != nil {
			return nil, err
		}
	}
	return ch, nil
}

func validKeys(encoded string) bool {
	text, err := url.PathUnescape(encoded)
	if err != nil {
		return false
	}
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
			return false
		}
	}
	return true
}

// options are those that a change sets, in the order in which they are looked at.
func (c *call) options(ch *change) []string {
	return slices.SortedFunc(maps.Keys(ch.set), func(a, b string) int {
		switch c.s.firstOption {
		case a:
			return -1
		case b:
			return 1
		}
		return strings.Compare(a, b)
	})
}

// changePermitted checks the privilege of every option.
func (c *call) changePermitted(vm *VM, ch *change) error {
	if c.who.root() {
		return nil
	}
	for _, k := range append(c.options(ch), ch.delete...) {
		if err := c.optionPermitted(vm, k, ch.set[k]); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) optionPermitted(vm *VM, key, value string) error {
	path := "/vms/" + strconv.Itoa(vm.ID)
	o, _ := c.s.c.option(key)
	if pool := c.p.str("pool"); pool != "" && c.s.c.VMs[vm.ID] == nil { // it has the rights on the pool, but is named itself
		err := c.permittedAt("/pool/"+pool, vm, key, value, o)
		if e, ok := err.(*apiError); ok { //nolint:errorlint // never wrapped
			e.message = strings.Replace(e.message, "/pool/"+pool+",", path+",", 1)
		}
		return err
	}
	return c.permittedAt(path, vm, key, value, o)
}

func (c *call) permittedAt(path string, vm *VM, key, value string, o option) error {
	switch {
	case o.priv == "root":
		return die("only root can set '%s' config", key)
	case key == "tags":
		return c.tagsPermitted(vm, path, value)
	case o.priv == "VM.Config.Cloudinit":
		return c.permitted(path + " VM.Config.Cloudinit|VM.Config.Network")
	case driveKey.MatchString(key):
		return c.drivePermitted(vm, path, key, value)
	}
	if err := c.check(path, o.priv); err != nil {
		return err
	}
	if strings.HasPrefix(key, "net") && value != "" {
		return c.bridgePermitted(value)
	}
	return nil
}

func (c *call) bridgePermitted(net string) error {
	props, _ := splitProperties(net, "model")
	if b := props.str("bridge"); b != "" {
		return c.check(bridgePath(b), "SDN.Use")
	}
	return nil
}

func (c *call) drivePermitted(vm *VM, path, key, value string) error {
	d := parseDrive(key, value)
	old := parseDrive(key, vm.Config[key])
	if d.cdrom() || value == "" && old.cdrom() || d.file == "none" {
		return c.check(path, "VM.Config.CDROM")
	}
	return c.check(path, "VM.Config.Disk")
}

// tagsPermitted: free tags need VM.Config.Options, others the right to change
// the data center's options (DataCenterConfig user-tag-access, measured).
func (c *call) tagsPermitted(vm *VM, path, value string) error {
	access, _ := splitProperties(c.s.c.Options["user-tag-access"], "")
	mode := access.str("user-allow")
	registered := splitList(c.s.c.Options["registered-tags"])
	var free []string
	switch mode {
	case "list":
		free = splitList(access.str("user-allow-list"))
	case "existing":
		free = c.allowedTags()
	}
	old, now := splitList(vm.Config["tags"]), normalTags(value)
	for _, t := range append(slices.Clone(old), now...) {
		if slices.Contains(old, t) && slices.Contains(now, t) {
			continue
		}
		open := !slices.Contains(registered, t) && (mode == "" || mode == "free" || slices.Contains(free, t))
		if !open && !c.allowed("/", "Sys.Modify") {
			return denied("/, Sys.Modify for modifying tag '" + t + "'")
		}
	}
	return c.check(path, "VM.Config.Options")
}

// normalTags is lower case, sorted, unique.
func normalTags(v string) []string {
	return slices.Compact(slices.Sorted(slices.Values(splitList(strings.ToLower(v)))))
}
