package pvetest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// ProcessGuests makes guests that are processes on this host: the agent really
// runs programs and opens files, in namespaces of its own and with a root
// directory below Dir that keeps what was written over a restart. The host's
// programs are there, read-only; the host's network is shared. An address in
// the guest's file /run/address is the one its agent tells from then on.
//
// The program that uses it must call [GuestMain] first in main or TestMain.
// Works as root and, where the kernel lets them have user namespaces, for
// others.
type ProcessGuests struct {
	// Dir holds a directory for each VM. Required.
	Dir string
	// Booted is called when a guest has started, with its root directory; what
	// it returns is called when the guest is gone. A place to attach an SSH
	// server. Nil is nothing.
	Booted func(spec GuestSpec, root string) (stop func())
	// ListenSSH returns where a guest's SSH server, the host's OpenSSH, takes
	// connections: a Unix socket, or a TCP address, which its agent then tells.
	// It lets in the user and the keys of cloud-init; without root here, any
	// user but root. Nil is no SSH server.
	ListenSSH func(spec GuestSpec) (net.Listener, error)
	// Programs are shell scripts that guests of stock images have besides those,
	// or in place of those, that stand in for a distribution's, such as apt-get.
	Programs map[string]string
}

// New is for Server.NewGuest.
func (p *ProcessGuests) New(spec GuestSpec) (Guest, error) {
	root := filepath.Join(p.Dir, strconv.Itoa(spec.VMID))
	if err := os.MkdirAll(root, 0o711); err != nil { //nolint:gosec // not secret
		return nil, err
	}
	host, inside, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = inside.Close() }()
	g := &processGuest{host: host, root: filepath.Join(root, "root"), done: make(chan struct{})}
	q := spec.agent()
	files, env := []*os.File{inside}, []string(nil)
	if p.ListenSSH != nil {
		l, ip, err := p.listenSSH(spec)
		if err != nil {
			_ = host.Close()
			return nil, err
		}
		defer func() { _ = l.Close() }()
		q.ip = cmp.Or(ip, q.ip)
		files, env = append(files, l), spec.sshEnv()
	}
	g.cmd = exec.Command("/proc/self/exe") //nolint:noctx // Kill ends it
	g.cmd.Env = []string{guestEnv + "=init", "PVETEST_ROOT=" + root, "PVETEST_NAME=" + q.name, "PVETEST_MAC=" + q.mac, "PVETEST_IP=" + q.ip}
	g.cmd.Env = append(g.cmd.Env, env...)
	if spec.Stock {
		g.cmd.Env = append(g.cmd.Env, stockEnv+"=1")
		if err := p.prepareStock(spec, root); err != nil {
			_ = host.Close()
			return nil, err
		}
	}
	g.cmd.ExtraFiles = files
	g.cmd.Stderr = &g.stderr
	g.cmd.SysProcAttr = namespaces()
	if err := g.cmd.Start(); err != nil {
		_ = host.Close()
		return nil, fmt.Errorf("start a guest in namespaces: %w", err)
	}
	stop := func() {}
	if p.Booted != nil {
		stop = p.Booted(spec, root)
	}
	go func() {
		_ = g.cmd.Wait() // however it ends, the VM is off
		_ = host.Close()
		if stop != nil {
			stop()
		}
		close(g.done)
	}()
	return g, nil
}

// namespaces for a machine's processes, files, mounts and name. The death of
// its init is the end of all of them.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, inside := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "virtio-port")
	defer func() { _ = ours.Close() }()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = inside.Close()
	}
	return conn, inside, err
}

type processGuest struct {
	cmd    *exec.Cmd
	host   net.Conn
	root   string
	done   chan struct{}
	once   sync.Once
	stderr capped
}

func (g *processGuest) Agent(context.Context) (net.Conn, error) { return g.host, nil }

// Powerdown does nothing: the guest has no ACPI.
func (g *processGuest) Powerdown() {}

func (g *processGuest) Kill() {
	g.once.Do(func() { _ = g.cmd.Process.Kill() })
	<-g.done
}

func (g *processGuest) Done() <-chan struct{} { return g.done }
