package pvetest

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cluster is the state of the simulated cluster. Tests see it through
// [Server.Edit] and may change all of it.
type Cluster struct {
	Nodes    []*Node
	Storages []*Storage
	Pools    map[string]*Pool
	VMs      map[int]*VM
	Users    map[string]*User
	Tokens   map[string]*Token // by USER@REALM!NAME
	Roles    map[string]*Role
	ACL      []ACL
	Options  map[string]string // of the data center
	Volumes  map[string]*Volume
	Firewall map[string]string // its files, as text, by name: cluster, host/NODE, or a VMID
	NoQuorum bool              // pmxcfs is read-only
	tasks    []*Task
	byUPID   map[string]*Task
	tickets  map[string]string // user by ticket
	consoles map[string]int    // VMID by ticket
	backups  []*backupJob
	locks    map[int]*flock
	release  int
	table    []*route
	options  map[string]option
	sums     map[string]string // checksums of what was downloaded
}

// Node is a member of the cluster.
type Node struct {
	Name    string
	CPUs    int
	Memory  int64 // bytes
	Bridges []string
	Down    bool // it does not answer; the others see it offline
	NoKVM   bool // it cannot virtualise: only VMs with kvm=0 start
	Hung    bool // it does not answer, though the others see it online
	Mute    bool // its pvestatd hangs: nothing is broadcast of it
	workers [workersPerNode]*worker
}

// Storage is a place for volumes, of type dir.
type Storage struct {
	ID      string
	Type    string   // empty is dir; the others are a dir that goes by another name
	Content string   // comma-separated content types
	Nodes   []string // empty is all
	Size    int64    // bytes
	Shared  bool
	Full    bool // allocations fail
	Away    bool // its server does not answer
	Used    int64
}

// Volume is a disk image or another file of a storage.
type Volume struct {
	ID      string // STORAGE:VMID/NAME or STORAGE:iso/NAME
	Storage string
	Node    string // where it is, if the storage is not shared
	VMID    int    // 0 for files that belong to no VM
	Size    int64  // bytes, virtual
	Format  string
	Content string
	Parent  string // base volume of a linked clone
	Stock   bool   // as it was published: nothing was installed in it yet, such as a guest agent
	Busy    bool   // it can't be removed
	Data    []byte // of a file that was uploaded
	booted  bool
	CTime   time.Time
}

// Pool groups VMs for permissions.
type Pool struct {
	Comment  string
	VMs      map[int]bool
	Storages map[string]bool
}

// VM is a virtual machine.
type VM struct {
	ID        int
	Node      string
	Config    map[string]string
	Pending   map[string]string // values that wait for a restart
	Deleted   map[string]bool   // keys to be deleted at the restart
	Snapshots []*Snapshot
	Parent    string // snapshot the current state descends from
	Running   bool
	QMPStatus string // running, paused, ... of a running VM

	pid     int
	started time.Time
	born    time.Time // when it was created through the API
	changed time.Time
}

// Snapshot is a saved state of a VM.
type Snapshot struct {
	Name        string
	Description string
	Parent      string
	Time        time.Time
	Config      map[string]string
}

// User of the cluster.
type User struct {
	Password string
	Comment  string
	Disabled bool
	Expire   int64 // Unix time; 0 is never
}

// Token is an API token.
type Token struct {
	Secret  string
	PrivSep bool
	Comment string
	Expire  int64 // Unix time; 0 is never
}

// Role is a named set of privileges.
type Role struct {
	Privs   []string
	Special bool // built in
}

// ACL gives a role on a path to a user or a token.
type ACL struct {
	Path      string
	Role      string
	Who       string // USER@REALM or USER@REALM!TOKEN
	Propagate bool
}

// newCluster is one node called pve with one directory storage called local
// and the bridge vmbr0.
func newCluster(release int) *Cluster {
	c := &Cluster{
		Pools: map[string]*Pool{}, VMs: map[int]*VM{}, Volumes: map[string]*Volume{},
		Users:  map[string]*User{"root@pam": {Password: "pvetest123"}},
		Tokens: map[string]*Token{}, Roles: builtinRoles(release), Options: map[string]string{}, Firewall: map[string]string{},
		byUPID: map[string]*Task{}, tickets: map[string]string{}, consoles: map[string]int{}, locks: map[int]*flock{}, options: vmOptionTable(), sums: map[string]string{}, release: release,
	}
	c.AddNode("pve")
	c.Storages = []*Storage{{
		ID: "local", Content: "images,iso,snippets,vztmpl,backup,import", Size: 270553174016, Used: 32489345024,
	}}
	return c
}

// AddNode adds a node with the size of the recorded one: 2 CPUs, 24 GiB.
func (c *Cluster) AddNode(name string) *Node {
	n := &Node{Name: name, CPUs: 2, Memory: 25276514304, Bridges: []string{"vmbr0"}}
	c.Nodes = append(c.Nodes, n)
	return n
}

// AddToken makes an API token, with its user if there is none, and returns its
// secret. Without privilege separation it has the rights of its user.
func (c *Cluster) AddToken(id string, privsep bool) string {
	user, _, _ := cutToken(id)
	if c.Users[user] == nil {
		c.Users[user] = &User{}
	}
	t := &Token{Secret: newUUID(), PrivSep: privsep}
	c.Tokens[id] = t
	return t.Secret
}

// AddTemplate adds a template with a cloud-init drive, a 2 GiB system disk on
// local, and the guest agent enabled: what a linked clone is made of.
func (c *Cluster) AddTemplate(node string, id int, name string) *VM {
	vm := c.AddVM(node, id, name)
	delete(c.Volumes, fmt.Sprintf("local:%d/vm-%d-disk-0.qcow2", id, id))
	base := fmt.Sprintf("local:%d/base-%d-disk-0.qcow2", id, id)
	c.addVolume(base, node, id, 2<<30, "")
	vm.Config["scsi0"] = base + ",size=2G"
	vm.Config["template"] = "1"
	vm.Config["ide2"] = strings.TrimSuffix(vm.Config["ide2"], ",size=4M") // a drive that was not cloned has no size
	return vm
}

// AddVM adds a stopped VM like those that were recorded.
func (c *Cluster) AddVM(node string, id int, name string) *VM {
	ci := fmt.Sprintf("local:%d/vm-%d-cloudinit.qcow2", id, id)
	disk := fmt.Sprintf("local:%d/vm-%d-disk-0.qcow2", id, id)
	c.addVolume(ci, node, id, 4<<20, "")
	c.addVolume(disk, node, id, 2<<30, "")
	vm := &VM{ID: id, Node: node, Pending: map[string]string{}, Deleted: map[string]bool{}, Config: map[string]string{
		"agent": "enabled=1", "balloon": "0", "boot": "order=scsi0", "ciupgrade": "0", "cores": "1",
		"cpu": "qemu64", "ide2": ci + ",media=cdrom,size=4M", "kvm": "0", "memory": "384",
		"meta": "creation-qemu=7.2.22,ctime=1795450859", "name": name, "net0": "virtio=" + newMAC() + ",bridge=vmbr0",
		"ostype": "l26", "scsi0": disk + ",size=2G", "scsihw": "virtio-scsi-pci", "serial0": "socket",
		"smbios1": "uuid=" + newUUID(), "vga": "serial0", "vmgenid": newUUID(),
	}}
	c.VMs[id] = vm
	return vm
}

func (c *Cluster) addVolume(id, node string, vmid int, size int64, parent string) {
	store, name := cutVolume(id)
	c.Volumes[id] = &Volume{
		ID: id, Storage: store, Node: node, VMID: vmid, Size: size, Format: formatOf(name), Content: "images",
		Parent: parent, CTime: time.Now(),
	}
}

// Task returns the exit status of a task: empty while it runs, and whether
// there is such a task.
func (c *Cluster) Task(upid string) (exit string, ok bool) {
	t := c.byUPID[upid]
	if t == nil {
		return "", false
	}
	return t.exit, true
}

// Busy says whether there are tasks that have not ended.
func (c *Cluster) Busy() bool { return slices.ContainsFunc(c.tasks, (*Task).running) }

// Tasks returns the UPIDs of all tasks, the oldest first.
func (c *Cluster) Tasks() []string {
	ids := make([]string, len(c.tasks))
	for i, t := range c.tasks {
		ids[i] = t.upid
	}
	return ids
}

func (c *Cluster) node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (c *Cluster) storage(id string) *Storage {
	for _, st := range c.Storages {
		if st.ID == id {
			return st
		}
	}
	return nil
}

// poolOf is the pool of a VM; empty is none.
func (c *Cluster) poolOf(vmid int) string {
	for id, p := range c.Pools {
		if p.VMs[vmid] {
			return id
		}
	}
	return ""
}

// newUUID is a random UUID of version 4.
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newMAC has Proxmox's own prefix, the default of mac_prefix.
func newMAC() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b)
	return fmt.Sprintf("BC:24:11:%02X:%02X:%02X", b[0], b[1], b[2])
}

func (vm *VM) name() string {
	if n := vm.Config["name"]; n != "" {
		return n
	}
	return "VM " + strconv.Itoa(vm.ID)
}

func (vm *VM) template() bool { return vm.Config["template"] == "1" }
