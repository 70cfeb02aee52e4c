package pve

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
)

// VM names a virtual machine. IDs are unique in a cluster, but calls go to the
// node that has it.
type VM struct {
	Node string
	ID   int
}

func (vm VM) args(more ...any) []any { return append([]any{vm.Node, vm.ID}, more...) }

// String returns "ID on NODE".
func (vm VM) String() string { return fmt.Sprintf("%d on %s", vm.ID, vm.Node) }

// CloneSpec says what to make of a template. Empty fields are left to PVE.
type CloneSpec struct {
	NewID       int
	Name        string // a DNS name
	Description string // written at the very end of the task only
	Pool        string // joined at the very end of the task only
	Full        bool   // copy the disks; false is linked, for templates only
	Target      string // another node; needs shared storage
	Storage     string // of a full clone
}

// Clone starts to clone vm. Several clones to one ID may all be started, of
// which one wins: the task of the others fails with Exists, and the machine is
// not theirs to touch (measured).
func (c *Client) Clone(ctx context.Context, vm VM, s CloneSpec) (UPID, error) {
	params := fields("newid", strconv.Itoa(s.NewID), "name", s.Name, "description", s.Description,
		"pool", s.Pool, "target", s.Target, "storage", s.Storage)
	params.Set("full", "0")
	if s.Full {
		params.Set("full", "1")
	}
	return c.task(ctx, postClone, vm.args(), params)
}

// CreateVM starts to create a machine with these options. An option such as
// scsi0 = "STORE:0,import-from=STORE:import/x.qcow2" imports a disk.
func (c *Client) CreateVM(ctx context.Context, vm VM, pool string, options map[string]string) (UPID, error) {
	params := fields("vmid", strconv.Itoa(vm.ID), "pool", pool)
	for k, v := range options {
		params.Set(k, v)
	}
	return c.task(ctx, postQemu, []any{vm.Node}, params)
}

// ConvertToTemplate starts to make vm a template, for good.
func (c *Client) ConvertToTemplate(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, postTemplate, vm.args(), nil)
}

// Delete starts to destroy a stopped machine, all volumes that bear its ID,
// and what refers to it elsewhere.
//
// It looks for these on every storage that the node has, and fails if one of
// them does not answer, though the machine has nothing there; its own disks may
// be gone then (PVE/QemuServer.pm destroy_vm).
func (c *Client) Delete(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, deleteQemu, vm.args(), fields("purge", "1", "destroy-unreferenced-disks", "1"))
}

// DeleteReferenced is Delete of the machine and the volumes that its config
// names only. One that can't be removed is but a warning of the task.
func (c *Client) DeleteReferenced(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, deleteQemu, vm.args(), fields("purge", "1"))
}

// Resize starts to grow a disk, such as scsi0, to a size such as 10G, or by
// one such as +512M. Shrinking is an error of the task, and so is another digest of
// the config than the one given, unless that is empty.
func (c *Client) Resize(ctx context.Context, vm VM, disk, size, digest string) (UPID, error) {
	return c.task(ctx, putResize, vm.args(), fields("disk", disk, "size", size, "digest", digest))
}

// Start starts a machine. That it does not exist, or runs, is an error of the task.
func (c *Client) Start(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, postStart, vm.args(), nil)
}

// StopOptions modify a Stop.
type StopOptions struct {
	// OverruleShutdown ends a shutdown that is under way and holds the lock
	// (PVE 8.2 and later).
	OverruleShutdown bool
	Timeout          int // seconds until the process is killed; 0 is PVE's
}

// Stop switches a machine off. To stop a stopped one succeeds.
func (c *Client) Stop(ctx context.Context, vm VM, o StopOptions) (UPID, error) {
	return c.task(ctx, postStop, vm.args(), fields(
		"overrule-shutdown", flag(o.OverruleShutdown), "timeout", seconds(o.Timeout)))
}

// Shutdown asks the guest to shut down, and with force switches the machine
// off after timeout seconds (0 is PVE's). The task holds the machine's lock
// all the time.
func (c *Client) Shutdown(ctx context.Context, vm VM, timeout int, force bool) (UPID, error) {
	return c.task(ctx, postShutdown, vm.args(), fields("timeout", seconds(timeout), "forceStop", flag(force)))
}

// Suspend pauses a running machine in memory.
func (c *Client) Suspend(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, postSuspend, vm.args(), nil)
}

// Resume continues a paused machine.
func (c *Client) Resume(ctx context.Context, vm VM) (UPID, error) {
	return c.task(ctx, postResume, vm.args(), nil)
}

// Status is what a machine does now.
type Status struct {
	Name      Text   `json:"name"`
	Status    string `json:"status"`    // running or stopped
	QMPStatus string `json:"qmpstatus"` // running, stopped, paused, prelaunch, io-error...
	Lock      string `json:"lock"`      // "" or clone, backup, ...
	Agent     Bool   `json:"agent"`     // the config has an enabled agent
	Template  Bool   `json:"template"`
	Uptime    Int    `json:"uptime"` // seconds
	Mem       Int    `json:"mem"`    // bytes
	MaxMem    Int    `json:"maxmem"` // bytes
	Tags      Text   `json:"tags"`
}

// Running reports whether the machine runs, paused or not.
func (s Status) Running() bool { return s.Status == "running" }

// Paused reports whether the machine is held still in memory.
func (s Status) Paused() bool { return s.QMPStatus == "paused" }

// Status returns what a machine does now; unlike [Client.Resources] it is never stale.
func (c *Client) Status(ctx context.Context, vm VM) (Status, error) {
	var s Status
	err := c.call(ctx, getStatusCurrent, vm.args(), nil, &s)
	return s, err
}

// Machines returns what the machines of a node do now, as far as the token may
// see them, without what a config alone knows: tags, pool.
func (c *Client) Machines(ctx context.Context, node string) ([]Resource, error) {
	var list []Resource
	err := c.call(ctx, getQemu, []any{node}, nil, &list)
	return list, err
}

// Snapshot is one of a machine's snapshots.
type Snapshot struct {
	Name        string `json:"name"`
	Description Text   `json:"description"`
	Parent      string `json:"parent"`
	Time        Int    `json:"snaptime"` // Unix seconds
	VMState     Bool   `json:"vmstate"`  // has memory
}

// Snapshots lists a machine's snapshots, without the entry for now.
func (c *Client) Snapshots(ctx context.Context, vm VM) ([]Snapshot, error) {
	var list, out []Snapshot
	if err := c.call(ctx, getSnapshots, vm.args(), nil, &list); err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.Name != "current" {
			out = append(out, s)
		}
	}
	return out, nil
}

// CreateSnapshot starts a snapshot. Names have 2 to 40 characters: letters,
// digits, - and _, the first a letter; "current" is reserved.
func (c *Client) CreateSnapshot(ctx context.Context, vm VM, name, description string, withMemory bool) (UPID, error) {
	params := fields("snapname", name, "description", description, "vmstate", flag(withMemory))
	return c.task(ctx, postSnapshot, vm.args(), params)
}

// Rollback starts to set the machine back to a snapshot.
func (c *Client) Rollback(ctx context.Context, vm VM, snapshot string) (UPID, error) {
	return c.task(ctx, postRollback, vm.args(snapshot), nil)
}

// DeleteSnapshot starts to remove a snapshot.
func (c *Client) DeleteSnapshot(ctx context.Context, vm VM, snapshot string) (UPID, error) {
	return c.task(ctx, deleteSnapshot, vm.args(snapshot), url.Values{})
}
