package proxmox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// attempts is how many machines one Create begins at most.
const attempts = 8

// Create implements [provisioner.Provisioner]. A machine of that sandbox that
// runs is adopted as it is; what is left of one that does not is removed first.
func (p *Provisioner) Create(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	p.init()
	id := spec.Papers.Sandbox
	if err := p.validate(spec); err != nil {
		return provisioner.Machine{}, fmt.Errorf("create %s: %w", id, err)
	}
	unlock, err := p.machine.Lock(ctx, id)
	if err != nil {
		return provisioner.Machine{}, err
	}
	defer unlock()
	m, err := p.adopt(ctx, spec)
	if errors.Is(err, provisioner.ErrNotFound) {
		m, err = p.make(ctx, spec)
	}
	if err != nil {
		return m, fmt.Errorf("create %s: %w", id, sentinel(p.advise(err)))
	}
	return m, nil
}

// step is a failure, and what was being done.
type step struct {
	name string
	err  error
}

func (s *step) Error() string { return s.name + ": " + s.err.Error() }
func (s *step) Unwrap() error { return s.err }

// make makes a machine where none is. If it fails, nothing is left. A step that
// fails twice on one node makes it try another; a guest that does not come up
// does so at once.
func (p *Provisioner) make(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	var last error
	failures, avoid := map[string]int{}, map[string]bool{}
	for range attempts {
		s, release, err := p.place(ctx, spec, avoid)
		if err != nil {
			return provisioner.Machine{}, cmp.Or(last, err)
		}
		m, err := p.makeAt(ctx, spec, s)
		release(err == nil)
		if err == nil {
			return m, nil
		}
		var st *step
		if ctx.Err() != nil || !errors.As(err, &st) || hopeless(err) {
			return m, err
		}
		last = fmt.Errorf("on node %s: %w", s.node, err)
		p.log.WarnContext(ctx, "a machine could not be made", "sandbox", spec.Papers.Sandbox, "node", s.node, "err", err)
		failures[s.node+" "+st.name]++
		if failures[s.node+" "+st.name] == 2 || st.name == bootStep || ofNode(err) {
			avoid[s.node] = true
		}
	}
	return provisioner.Machine{}, last
}

// ofNode says that the node won't do better a second time.
func ofNode(err error) bool {
	for _, e := range []error{pve.NodeUnreachable, pve.NoSpace, pve.NotFound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// hopeless says that no node would do better.
func hopeless(err error) bool {
	for _, e := range []error{
		errLeft, errUnknown, provisioner.ErrExhausted, provisioner.ErrInvalid, pve.Parameter, pve.Permission, pve.Unauthorized,
		pve.NoQuorum, pve.Unreachable, pve.Untrusted,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var (
	// errLeft: what was made could not be removed again.
	errLeft = errors.New("undo")
	// errUnknown: there may be a machine, so that another one must not be made.
	errUnknown = errors.New("what became of it can't be found out")
)

// makeAt makes a machine on a node.
func (p *Provisioner) makeAt(ctx context.Context, spec provisioner.Spec, s site) (_ provisioner.Machine, err error) {
	vm, done, err := p.clone(ctx, spec, s)
	if err != nil {
		return provisioner.Machine{}, err
	}
	defer done()
	told := false // whoever gave up knows of the machine
	defer func() {
		if err == nil || told {
			return
		}
		undo, cancel := steady(ctx, p.undo)
		defer cancel()
		if uerr := p.remove(undo, vm, spec.Papers.Sandbox); uerr != nil {
			err = fmt.Errorf("%w; %w: %w", err, errLeft, uerr)
		}
	}()
	if err := p.configure(ctx, spec, vm); err != nil {
		return provisioner.Machine{}, &step{"configure", err}
	}
	if err := p.start(ctx, vm); err != nil {
		return provisioner.Machine{}, &step{"start", err}
	}
	p.setTimes(vm.ID, time.Now(), time.Time{})
	m := p.describe(vm, spec.Papers, true)
	if spec.Started == nil {
		return m, nil
	}
	if err := spec.Started(ctx, m); err != nil {
		return m, err
	}
	err = p.comeUp(ctx, live{vm: vm, papers: spec.Papers}, s.others)
	told = ctx.Err() != nil
	if err != nil {
		return m, &step{bootStep, err}
	}
	return m, nil
}

// bootStep is the step that is not tried twice on a node.
const bootStep = "boot"

// configure makes a fresh clone what the spec says, in one call, and its disk
// as big as the spec says.
func (p *Provisioner) configure(ctx context.Context, spec provisioner.Spec, vm pve.VM) error {
	cfg, err := p.Client.Config(ctx, vm)
	if err != nil {
		return err
	}
	ch, err := p.change(spec, vm.ID, cfg)
	if err != nil {
		return err
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	if err := p.Client.SetConfig(call, vm, ch); err != nil {
		return err
	}
	p.remember(vm, spec.Papers, ch.Set["description"])
	return p.grow(ctx, vm, cfg, "", spec.DiskMB)
}

// grow makes the disk of a machine as big as that, if it is smaller.
func (p *Provisioner) grow(ctx context.Context, vm pve.VM, cfg pve.Config, digest string, diskMB int) error {
	disk, mb := bootDisk(cfg)
	if disk == "" || mb >= int64(diskMB) {
		return ctx.Err()
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := p.Client.Resize(call, vm, disk, strconv.Itoa(diskMB)+"M", digest)
	return p.await(ctx, task, err)
}

// change returns what is to be changed in the config of a fresh clone.
func (p *Provisioner) change(spec provisioner.Spec, id int, cfg pve.Config) (pve.Change, error) {
	login, err := p.login(spec)
	if err != nil {
		return pve.Change{}, err
	}
	text, err := p.seal(id, whole, spec.Papers)
	if err != nil {
		return pve.Change{}, err
	}
	ch := pve.Change{Digest: cfg.Digest(), Set: map[string]string{
		"description": text,
		"tags":        p.tags(cfg.Tags(), text),
		"onboot":      "0", // a machine whose end has come while its node was off must not come back
		"ciuser":      p.user(spec.Papers.Profile),
		"ciupgrade":   "0", // else the first boot upgrades all packages (PVE/QemuServer/Cloudinit.pm)
	}}
	maps.Copy(ch.Set, login)
	if spec.Cores > 0 {
		ch.Set["cores"], ch.Set["sockets"] = strconv.Itoa(spec.Cores), "1"
		if cfg["vcpus"] != "" { // more than there are cores, and it would not start
			ch.Delete = append(ch.Delete, "vcpus")
		}
	}
	if spec.MemoryMB > 0 {
		ch.Set["memory"] = strconv.Itoa(spec.MemoryMB)
		if cfg.Int("balloon") > spec.MemoryMB {
			ch.Set["balloon"] = strconv.Itoa(spec.MemoryMB)
		}
	}
	if cfg["protection"] == "1" { // copied from the template, and would outlast our Destroy
		ch.Delete = append(ch.Delete, "protection")
	}
	p.connect(&ch, cfg, spec.Network)
	return ch, nil
}

// connectable returns nil if clones of the template can have the network.
func (p *Provisioner) connectable(t knownTemplate, network string) error {
	if network != "internet" || p.Bridge != "" || t.cfg["net0"] != "" {
		return nil
	}
	return fmt.Errorf("template %s has no network card net0: set proxmox_bridge, or run on a node: pvesh set /nodes/%s/qemu/%d/config --net0 virtio,bridge=vmbr0",
		t.vm, t.vm.Node, t.vm.ID)
}

// connect gives a machine its network card, or none: a card that is merely
// unplugged makes guests wait for it at boot.
func (p *Provisioner) connect(ch *pve.Change, cfg pve.Config, network string) {
	for _, option := range slices.Sorted(maps.Keys(cfg)) {
		card := strings.HasPrefix(option, "net") && strings.Trim(option[3:], "0123456789") == ""
		address := strings.HasPrefix(option, "ipconfig")
		switch {
		case !card && !address, network == "internet" && option == "net0":
		case network == "internet" && option == "ipconfig0":
		default:
			ch.Delete = append(ch.Delete, option)
		}
	}
	if network != "internet" {
		return
	}
	ch.Set["ipconfig0"] = "ip=dhcp"
	if p.Bridge != "" { // with its MAC: without one each change would make a new one
		ch.Set["net0"] = pve.ParseProperties(cmp.Or(cfg["net0"], "virtio")).With("bridge", p.Bridge).String()
	}
}

// start starts a machine.
func (p *Provisioner) start(ctx context.Context, vm pve.VM) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call, cancel := steady(ctx, callTime)
	defer cancel()
	task, err := p.Client.Start(call, vm)
	if pve.Lost(err) { // it may have started all the same
		s, serr := p.Client.Status(call, vm)
		if serr == nil && s.Running() {
			return nil
		}
	}
	err = p.await(ctx, task, err)
	if errors.Is(err, pve.Failed) && task != "" { // QEMU's own words are only there
		if said, lerr := p.Client.TaskLog(call, task, 4); lerr == nil {
			err = pve.Explain(err, said)
		}
	}
	return err
}

// await awaits a task that was just started. If ctx ends first, it ends the
// task: what is undone must not go on to be done.
func (p *Provisioner) await(ctx context.Context, task pve.UPID, err error) error {
	if err != nil {
		return err
	}
	if _, err = p.Client.Wait(ctx, task); ctx.Err() == nil {
		return err
	}
	rest, cancel := steady(ctx, p.undo)
	defer cancel()
	_ = p.Client.AbortTask(rest, task)
	_, _ = p.Client.Wait(rest, task) // what counts is that it has ended
	return ctx.Err()
}

// hostname is the spec's if that is a DNS name, else the sandbox's id.
func hostname(spec provisioner.Spec) string {
	if validName.MatchString(spec.Hostname) {
		return spec.Hostname
	}
	return strings.ReplaceAll(spec.Papers.Sandbox, "_", "-")
}

// sleep waits for d and returns nil, or why ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
