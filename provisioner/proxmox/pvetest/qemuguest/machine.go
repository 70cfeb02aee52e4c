package qemuguest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Guests makes guests that are real machines. Close nothing: their simulator
// ends them.
type Guests struct {
	// Image is what they boot from. Required, but for guests that are of Stock.
	Image Image
	// Stock is what machines boot from whose disk was imported. What clones of
	// them boot from is their disk.
	Stock Image
	// Mirror is the port on 127.0.0.1 of a web server with the packages of Stock,
	// which guests install from. 0 is none.
	Mirror int
	// Dir holds disk, drive and console of each VM. Required.
	Dir string

	probe    sync.Once
	hardware bool // virtualisation is usable
	mu       sync.Mutex
	ports    map[netip.Addr]netip.AddrPort // where a guest's sshd is reached, by its own address
}

// Dial connects to the SSH server of the guest with that address, as if there
// were a way to its network.
func (g *Guests) Dial(ctx context.Context, guest netip.Addr) (net.Conn, error) {
	g.mu.Lock()
	at, ok := g.ports[guest]
	g.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no guest has the address %s", guest)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", at.String())
}

// Destroyed removes what is left of a VM; it is for pvetest.Server.Destroyed.
func (g *Guests) Destroyed(vmid int) { _ = g.remove(vmid, "") }

// remove removes the files of VMs with that id, but for a directory.
func (g *Guests) remove(vmid int, but string) error {
	old, err := filepath.Glob(filepath.Join(g.Dir, strconv.Itoa(vmid)+"-*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if d != but {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}
	return err
}

// machine is what QEMU is told to be.
type machine struct {
	spec             pvetest.GuestSpec
	image            Image
	disk, drive, log string
	network          netip.Prefix // of its own, with a DHCP server that has only this guest
	mirror           int
	reached          netip.AddrPort
}

var (
	uuidOf = regexp.MustCompile(`uuid=([0-9a-fA-F-]{36})`)
	macOf  = regexp.MustCompile(`(?i)=([0-9a-f]{2}(?::[0-9a-f]{2}){5})`)
)

// machine makes a VM's files. A clone has an UUID of its own, which is that of
// its disk here, so that a VMID that is used again gets a new one.
func (g *Guests) machine(spec pvetest.GuestSpec) (*machine, error) {
	id := uuidOf.FindStringSubmatch(spec.Config["smbios1"])
	if id == nil {
		return nil, errors.New("no uuid in smbios1")
	}
	dir := filepath.Join(g.Dir, strconv.Itoa(spec.VMID)+"-"+id[1])
	m := &machine{
		spec: spec, network: network(spec.VMID), mirror: g.Mirror,
		disk: filepath.Join(dir, diskFile), drive: filepath.Join(dir, "cloudinit.iso"), log: filepath.Join(dir, "console"),
	}
	var err error
	if m.image, err = g.image(spec); err != nil {
		return nil, err
	}
	if m.reached, err = g.reserve(m.at(15)); err != nil {
		return nil, err
	}
	if err := g.remove(spec.VMID, dir); err != nil {
		return nil, err
	}
	if err := m.makeDisk(dir); err != nil {
		return nil, err
	}
	return m, m.makeDrive(dir)
}

// network is 10.128.0.0/24 or one of the 32767 that follow.
func network(vmid int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 | byte(vmid>>8), byte(vmid), 0}), 24) //nolint:gosec // cut on purpose
}

// at is an address of the network: 2 is the host, 15 what the guest gets from
// DHCP.
func (m *machine) at(last byte) netip.Addr {
	a := m.network.Addr().As4()
	a[3] = last
	return netip.AddrFrom4(a)
}

// image is what a VM's disk is layered over: the disk of the template that it is
// a linked clone of, if that was booted before it was one.
func (g *Guests) image(spec pvetest.GuestSpec) (Image, error) {
	disks, err := filepath.Glob(filepath.Join(g.Dir, strconv.Itoa(spec.Base)+"-*", diskFile))
	switch {
	case len(disks) > 0:
		img := g.Stock
		img.Disk = disks[0]
		return img, nil
	case spec.Stock:
		return g.Stock, err
	}
	return g.Image, err
}

const diskFile = "disk.qcow2"

// sshPort is where guests' SSH servers are reached, each at an address of its
// own.
const sshPort = 2222

// reserve finds an address of this host for a guest, which it keeps.
func (g *Guests) reserve(guest netip.Addr) (netip.AddrPort, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at, ok := g.ports[guest]; ok {
		return at, nil
	}
	var lastErr error
	for range 20 {
		a := netip.AddrFrom4([4]byte{127, byte(64 + rand.IntN(64)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))}) //nolint:gosec // any will do
		at := netip.AddrPortFrom(a, sshPort)
		l, err := net.Listen("tcp", at.String()) //nolint:noctx // only to see whether it is free
		if err != nil {
			lastErr = err
			continue
		}
		_ = l.Close()
		if g.ports == nil {
			g.ports = map[netip.Addr]netip.AddrPort{}
		}
		g.ports[guest] = at
		return at, nil
	}
	return netip.AddrPort{}, fmt.Errorf("an address for its sshd: %w", lastErr)
}

// makeDisk layers a disk over the image, unless the VM has one.
func (m *machine) makeDisk(dir string) error {
	if _, err := os.Stat(m.disk); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return run("qemu-img", "create", "-q", "-f", "qcow2", "-b", m.image.Disk, "-F", "qcow2", m.disk)
}

// makeDrive writes the cloud-init drive as PVE does (QemuServer/Cloudinit.pm
// commit_cloudinit_disk), unless the VM has an image in its place.
func (m *machine) makeDrive(dir string) error {
	if image := m.spec.Media["ide2"]; image != nil {
		return os.WriteFile(m.drive, image, 0o600)
	}
	files := filepath.Join(dir, "cloudinit")
	if err := os.MkdirAll(files, 0o700); err != nil {
		return err
	}
	for name, kind := range map[string]string{"user-data": "user", "network-config": "network", "meta-data": "meta"} {
		text := pvetest.CloudInit(m.spec.Name, m.spec.Config, kind)
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return run("genisoimage", "-quiet", "-iso-level", "3", "-R", "-V", "cidata", "-o", m.drive, files)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil { //nolint:noctx // short
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
