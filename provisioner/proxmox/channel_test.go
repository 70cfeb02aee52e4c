package proxmox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// guestProgram builds the agentlab-guest that tests put into machines, once.
var guestProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "agentlab-guest")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "github.com/agentlab-mcp/agentlab/cmd/agentlab-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build agentlab-guest: %w: %s", err, out)
	}
	return path, nil
})

// sshLab is a lab whose guests have an SSH server.
type sshLab struct {
	*lab
	dir   string
	dials atomic.Int64
	// way is asked before a guest's SSH server is connected to; nil lets all through.
	way func() error
}

func newSSHLab(t *testing.T) *sshLab {
	t.Helper()
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "c") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // guests pass it
		t.Fatal(err)
	}
	l := &sshLab{dir: dir}
	guests := &pvetest.ProcessGuests{Dir: dir, ListenSSH: func(spec pvetest.GuestSpec) (net.Listener, error) {
		path := l.socket(netip.AddrFrom4([4]byte{10, 77, byte(spec.VMID / 250 % 250), byte(1 + spec.VMID%250)}))
		_ = os.Remove(path) // of the last boot
		return net.Listen("unix", path)
	}}
	l.lab = newLab(t, &pvetest.Server{NewGuest: guests.New})
	return l
}

// socket is where the SSH server at an address listens.
func (l *sshLab) socket(ip netip.Addr) string { return filepath.Join(l.dir, ip.String()) }

// provisioner returns one whose profiles have the channel.
func (l *sshLab) provisioner(channel string) *Provisioner {
	l.t.Helper()
	p := l.lab.provisioner()
	p.Channel = func(string) string { return channel }
	p.patience = 5 * time.Minute // no test waits for its end
	if os.Getuid() != 0 {        // guests have no other user then
		p.User = func(string) string { return "user" }
	}
	var err error
	if p.Guest, err = guestProgram(); err != nil {
		l.t.Fatal(err)
	}
	p.DialSSH = func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		l.dials.Add(1)
		if l.way != nil {
			if err := l.way(); err != nil {
				return nil, err
			}
		}
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.socket(ip))
	}
	return p
}

// made returns a machine with a network.
func made(t *testing.T, p *Provisioner, n int) provisioner.Machine {
	t.Helper()
	spec := testSpec(n)
	spec.Network = "internet"
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// dialled opens the channel to a machine.
func dialled(t *testing.T, p *Provisioner, m provisioner.Machine) guest.Conn {
	t.Helper()
	conn, err := p.Dial(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// says runs a script and returns what it prints.
func says(t *testing.T, c guest.Conn, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	_, err := c.Run(ctx, guest.Cmd{Args: []string{"sh", "-c", script}, Dir: "/"}, guest.Streams{Stdout: &out, Stderr: &out})
	return out.String(), err
}

func TestChannelBySSH(t *testing.T) {
	for _, channel := range []string{channelSSH, channelAuto} {
		t.Run(channel, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.provisioner(channel)
			m := made(t, p, 1)
			conn := dialled(t, p, m)
			if _, ok := conn.(*sshboot.Conn); !ok {
				t.Errorf("the channel is a %T", conn)
			}
			if out, err := says(t, conn, "echo $USER; hostname"); err != nil || out != p.user("p")+"\nbox-1\n" {
				t.Errorf("the guest says %q, %v", out, err)
			}
			list, err := p.List(t.Context())
			if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].IP, "10.77.") {
				t.Errorf("List: %+v, %v", list, err)
			}
		})
	}
}

// A machine that was restarted is reached again by the same channel.
func TestChannelAfterRestart(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelAuto)
	m := made(t, p, 1)
	conn := dialled(t, p, m)
	if _, err := says(t, conn, "true"); err != nil {
		t.Fatal(err)
	}
	vm, err := p.find(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(t.Context(), vm.vm); err != nil {
		t.Fatal(err)
	}
	if _, err := says(t, conn, "true"); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("a machine that is off: %v", err)
	}
	if err := p.start(t.Context(), vm.vm); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		_, err := says(t, conn, "true")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Where SSH leads nowhere, auto uses the agent, and stays with it for good: what
// runs in the background is known there.
func TestChannelFallsBack(t *testing.T) {
	l := newSSHLab(t)
	var open atomic.Bool
	l.way = func() error {
		if open.Load() {
			return nil
		}
		return syscall.EHOSTUNREACH
	}
	p := l.provisioner(channelAuto)
	login := p.User
	p.User = nil // whoever we are, the agent's own user may run commands
	m := made(t, p, 1)
	conn := dialled(t, p, m)
	if _, ok := conn.(*agentconn.Conn); !ok {
		t.Fatalf("the channel is a %T", conn)
	}
	if out, err := says(t, conn, "echo here"); err != nil || out != "here\n" {
		t.Errorf("the guest says %q, %v", out, err)
	}
	tried := l.dials.Load()
	if tried == 0 {
		t.Error("SSH was not tried")
	}
	open.Store(true)
	for name, p := range map[string]*Provisioner{"the same": p, "a new": l.provisioner(channelAuto)} {
		conn := dialled(t, p, m)
		if _, ok := conn.(*agentconn.Conn); !ok || l.dials.Load() != tried {
			t.Errorf("%s process: the channel is a %T after %d tries", name, conn, l.dials.Load()-tried)
		}
	}
	p.User = login
	conn = dialled(t, p, made(t, p, 2))
	if _, ok := conn.(*sshboot.Conn); !ok {
		t.Errorf("the next machine's channel is a %T", conn)
	}
}

// With channel ssh there is no other, and the error says what was tried.
func TestChannelSSHOnly(t *testing.T) {
	l := newSSHLab(t)
	l.way = func() error { return syscall.EHOSTUNREACH }
	p := l.provisioner(channelSSH)
	_, err := p.Dial(t.Context(), made(t, p, 1).Ref)
	if !errors.Is(err, guest.ErrUnreachable) || !errors.Is(err, errNoWay) || !strings.Contains(err.Error(), "channel: agent") {
		t.Errorf("Dial: %v", err)
	}
	m, err := p.Create(t.Context(), testSpec(2)) // without a network
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Dial(t.Context(), m.Ref); err == nil || !strings.Contains(err.Error(), "no network card") {
		t.Errorf("Dial: %v", err)
	}
}

// A guest that can't be reached by SSH costs no call for it.
func TestChannelWithoutNetwork(t *testing.T) {
	for _, channel := range []string{channelAgent, channelAuto} {
		l := newSSHLab(t)
		p := l.provisioner(channel)
		m, err := p.Create(t.Context(), testSpec(1))
		if err != nil {
			t.Fatal(err)
		}
		l.onCall(nil)
		conn := dialled(t, p, m)
		if _, ok := conn.(*agentconn.Conn); !ok {
			t.Errorf("%s: the channel is a %T", channel, conn)
		}
		for call, n := range l.counted() {
			if strings.HasPrefix(call, http.MethodGet) && (strings.HasSuffix(call, "file-read") || strings.HasSuffix(call, "network-get-interfaces")) {
				t.Errorf("%s: %d times %s", channel, n, call)
			}
		}
	}
}

// Another machine at the guest's address is not taken for it.
func TestChannelPinsHostKey(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelSSH)
	m, other := made(t, p, 1), made(t, p, 2)
	dialled(t, p, other)
	var ip string
	list, err := p.List(t.Context())
	for _, o := range list {
		ip += o.IP
	}
	if err != nil || ip == "" {
		t.Fatalf("List: %+v, %v", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dial, dials := p.DialSSH, 0
	p.DialSSH = func(ctx context.Context, _ netip.Addr) (net.Conn, error) {
		if dials++; dials > 1 { // it was refused once, and would be for long
			cancel()
		}
		return dial(ctx, netip.MustParseAddr(ip))
	}
	_, err = p.Dial(ctx, m.Ref)
	if err == nil || strings.Count(err.Error(), "SHA256:") != 2 {
		t.Errorf("Dial: %v", err)
	}
}

// A profile may come to name another user: a machine that is there has the one
// that it was made with.
func TestUserOfAMachineStays(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelSSH)
	m := made(t, p, 1)
	after := l.provisioner(channelSSH)
	after.User = func(string) string { return "newcomer" }
	if out, err := says(t, dialled(t, after, m), "echo $USER"); err != nil || out != p.user("p")+"\n" {
		t.Errorf("the guest says %q, %v", out, err)
	}
}
