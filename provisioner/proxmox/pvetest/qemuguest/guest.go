package qemuguest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// quitPatience is how long QEMU gets to write its disk when it is told to quit.
const quitPatience = 10 * time.Second

// guest is a running QEMU.
type guest struct {
	cmd    *exec.Cmd
	agent  net.Conn
	qmp    *qmp
	done   chan struct{}
	kill   sync.Once
	stderr bytes.Buffer // complete when done is closed
}

// New starts QEMU for a VM; it is for pvetest.Server.NewGuest. The disk that
// the VM had when it ran last is there again.
func (g *Guests) New(spec pvetest.GuestSpec) (pvetest.Guest, error) {
	m, err := g.machine(spec)
	if err != nil {
		return nil, fmt.Errorf("guest %d: %w", spec.VMID, err)
	}
	out, err := g.start(m)
	if err != nil {
		return nil, fmt.Errorf("guest %d: %w", spec.VMID, err)
	}
	return out, nil
}

func (g *Guests) start(m *machine) (*guest, error) {
	agent, agentEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = agentEnd.Close() }()
	monitor, monitorEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = monitorEnd.Close() }()
	out := &guest{agent: agent, done: make(chan struct{})}
	out.cmd = exec.Command("qemu-system-x86_64", m.arguments(g.accelerator(m.image.Kernel))...) //nolint:gosec,noctx // Kill ends it
	out.cmd.ExtraFiles = []*os.File{agentEnd, monitorEnd}                                       // 3 and 4
	out.cmd.Stderr = &out.stderr
	out.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := out.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = out.cmd.Wait() // however it ends, the VM is off
		_ = agent.Close()
		_ = monitor.Close()
		close(out.done)
	}()
	if out.qmp, err = newQMP(monitor); err != nil {
		_ = monitorEnd.Close()
		_ = out.cmd.Process.Kill()
		<-out.done
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.stderr.Bytes()))
	}
	return out, nil
}

// Agent is the host's end of the agent's channel.
func (g *guest) Agent(context.Context) (net.Conn, error) { return g.agent, nil }

// Powerdown presses the power button, which the guest's systemd obeys.
func (g *guest) Powerdown() { _ = g.qmp.execute("system_powerdown") }

// Kill makes QEMU quit, which keeps what the guest wrote to its disk, and kills
// it when it does not.
func (g *guest) Kill() {
	g.kill.Do(func() {
		go func() { _ = g.qmp.execute("quit") }() // its end breaks the connection
		t := time.NewTimer(quitPatience)
		defer t.Stop()
		select {
		case <-g.done:
		case <-t.C:
			_ = g.cmd.Process.Kill()
		}
	})
	<-g.done
}

// Done is closed when QEMU has ended.
func (g *guest) Done() <-chan struct{} { return g.done }

// socketPair returns our end of a channel and QEMU's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "qemu") //nolint:gosec // descriptors
	defer func() { _ = ours.Close() }()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
	}
	return conn, theirs, err
}
