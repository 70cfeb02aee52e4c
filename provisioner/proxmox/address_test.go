package proxmox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// refuse leaves a socket on which nobody listens.
func refuse(old, _ string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: old})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// A guest that gets another address is found there, whoever has its old one.
// That it shows the same host key is still seen to.
func TestChannelFollowsAddress(t *testing.T) {
	for name, takeOver := range map[string]func(old, other string) error{
		"nobody":  func(string, string) error { return nil },
		"refuses": refuse,
		"another": func(old, other string) error { return os.Symlink(other, old) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.provisioner(channelSSH)
			p.askAgain = time.Nanosecond
			cut := cuttable(p)
			m, other := made(t, p, 1), made(t, p, 2)
			conn := dialled(t, p, m)
			dialled(t, p, other)
			socket := func(sandbox string) string { return l.socket(netip.MustParseAddr(p.ways.ip(sandbox))) }
			old, moved := socket(m.Sandbox), netip.MustParseAddr("10.77.99.99")
			lease := filepath.Join(l.dir, fmt.Sprint(handleID(t, m)), "root/run/address")
			if err := os.WriteFile(lease, []byte(moved.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(old, l.socket(moved)); err != nil {
				t.Fatal(err)
			}
			if err := takeOver(old, socket(other.Sandbox)); err != nil {
				t.Fatal(err)
			}
			cut()
			if out, err := says(t, conn, "hostname"); err != nil || out != "box-1\n" {
				t.Errorf("the guest says %q, %v", out, err)
			}
			if ip := p.ways.ip(m.Sandbox); ip != moved.String() {
				t.Errorf("its address is %s", ip)
			}
			if err := os.Rename(socket(other.Sandbox), l.socket(moved)); err != nil {
				t.Fatal(err)
			}
			cut()
			if out, err := says(t, conn, "hostname"); err == nil {
				t.Errorf("another machine at its address says %q", out)
			}
		})
	}
}

// cuttable makes it possible to end all SSH connections.
func cuttable(p *Provisioner) (cut func()) {
	var mu sync.Mutex
	var conns []net.Conn
	dial := p.DialSSH
	p.DialSSH = func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		nc, err := dial(ctx, ip)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			conns = append(conns, nc)
		}
		return nc, err
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		for _, nc := range conns {
			_ = nc.Close()
		}
		conns = nil
	}
}
