package sshboot_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// wantError checks that err is of a machine that can't be reached, and says all
// of words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("error %v", err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %v: it does not say %q", err, w)
		}
	}
}

// until repeats f until it succeeds.
func until(t *testing.T, f func() error) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// wantLogins checks how many connections were made to the machine.
func (m *machine) wantLogins(t *testing.T, n int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logins != n {
		t.Errorf("%d logins, want %d", m.logins, n)
	}
}

// Everything goes through one connection.
func TestOneLogin(t *testing.T) {
	m := boot(t)
	c := m.conn(t)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { check(t, run(t, c, "sleep 0.1")) })
	}
	calls.Wait()
	m.wantLogins(t, 1)
}

// A server that forwards no sockets has a limit of sessions, 10, and we none.
func TestNoForwarding(t *testing.T) {
	m := boot(t, "AllowStreamLocalForwarding no", "AllowTcpForwarding no")
	c := m.conn(t)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { check(t, run(t, c, "while ! [ -e "+m.path("go")+" ]; do sleep 0.02; done")) })
	}
	big := strings.Repeat("0123456789", 1<<18)
	res, err := c.WriteFile(t.Context(), m.path("big"), strings.NewReader(big), guest.WriteOptions{})
	if err != nil || res.Bytes != int64(len(big)) {
		t.Errorf("write: %+v, %v", res, err)
	}
	if out, err := output(t, c, "cat "+m.path("big")+" | head -c 20000000"); out != big {
		t.Errorf("%d bytes come back: %v", len(out), err)
	}
	m.write(t, "go", "")
	calls.Wait()
	m.killGuest(t)
	until(t, func() error { return run(t, c, "true") })
}

// Another host key than the pinned one is refused, and named.
func TestHostKeyChanged(t *testing.T) {
	m := boot(t)
	cfg := m.config(t)
	c := newConn(t, cfg)
	check(t, run(t, c, "true"))
	m.newHostKey(t)
	m.stop()
	m.serve(t)
	until(t, func() error {
		if err := run(t, c, "true"); err == nil || !strings.Contains(err.Error(), "SHA256") {
			return errors.Join(errors.New("it is let in, or broke off"), err)
		}
		return nil
	})
	wantError(t, run(t, c, "true"), ssh.FingerprintSHA256(cfg.HostKeys[0]), ssh.FingerprintSHA256(m.hostKey(t)))
	check(t, run(t, m.conn(t), "true"))
}

// A restart of the SSH server, as of a network, costs a connection and nothing else.
func TestServerRestarts(t *testing.T) {
	m := boot(t)
	c := m.conn(t)
	p, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "read x; echo got $x"}}, guest.StartOptions{KeepStdin: true})
	check(t, err)
	m.stop()
	until(t, func() error {
		if run(t, c, "true") == nil {
			return errors.New("it is still reached")
		}
		return nil
	})
	m.serve(t)
	until(t, func() error { return run(t, c, "true") })
	_, err = c.Processes().Control(t.Context(), p.ID, guest.Input{Stdin: []byte("it\n")})
	check(t, err)
	_, out, err := c.Processes().Read(t.Context(), p.ID, guest.ReadRequest{Until: "got it", Wait: time.Minute, Max: 100})
	if err != nil || string(out.Both) != "got it\n" {
		t.Errorf("output %q, error %v", out.Both, err)
	}
}

// An agentlab-guest that was killed is started again, and gives no id twice.
func TestGuestKilled(t *testing.T) {
	m := boot(t)
	c := m.conn(t)
	first, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.StartOptions{Wait: time.Minute})
	check(t, err)
	m.killGuest(t)
	until(t, func() error { return run(t, c, "true") })
	if _, _, err := c.Processes().Read(t.Context(), first.ID, guest.ReadRequest{}); !errors.Is(err, guest.ErrNoProcess) {
		t.Errorf("a lost process: %v", err)
	}
	second, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.StartOptions{})
	if err != nil || second.ID == first.ID {
		t.Errorf("id %s again: %v", second.ID, err)
	}
	m.wantLogins(t, 1)
}

// A machine that hangs is given up, and reached again by a new connection.
func TestHangs(t *testing.T) {
	m := boot(t)
	cfg := m.config(t)
	cfg.KeepAlive = 200 * time.Millisecond
	c := newConn(t, cfg)
	check(t, run(t, c, "true"))
	m.signal(syscall.SIGSTOP)
	until(t, func() error { return run(t, c, "true") })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logins < 2 { // more, if a busy machine is silent for so long once more
		t.Errorf("%d logins, want another after the one that hangs", m.logins)
	}
}

// mute is a connection that breaks when it is next used, which who only listens
// does not learn.
type mute struct {
	net.Conn
	now atomic.Bool
}

func (m *mute) Write(b []byte) (int, error) {
	if m.now.Load() {
		return 0, net.ErrClosed
	}
	return m.Conn.Write(b)
}

// A connection that breaks in the moment it is needed is made anew for the same call.
func TestBreaksWhenNeeded(t *testing.T) {
	m := boot(t)
	cfg := m.config(t)
	cfg.KeepAlive = 300 * time.Millisecond // by which it is found out
	dial, first := cfg.Dial, &mute{}
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		if err == nil && first.Conn == nil {
			first.Conn = nc
			return first, nil
		}
		return nc, err
	}
	c := newConn(t, cfg)
	check(t, run(t, c, "true"))
	first.now.Store(true)
	check(t, run(t, c, "true"))
}

// Many who come at once start one agentlab-guest.
func TestAllAtOnce(t *testing.T) {
	m := boot(t)
	var calls sync.WaitGroup
	for range 6 {
		c := m.conn(t)
		calls.Go(func() { check(t, run(t, c, "true")) })
	}
	calls.Wait()
	m.guestPID(t) // fails if there are several
	m.wantClean(t)
}

// wantClean checks that no upload left anything.
func (m *machine) wantClean(t *testing.T) {
	t.Helper()
	until(t, func() error { // what was cut off may take a moment to notice
		left, err := filepath.Glob(m.path("guest") + "/new.*")
		if err == nil && len(left) > 0 {
			err = errors.New("left: " + strings.Join(left, " "))
		}
		return err
	})
}

// cutConn breaks off after some bytes.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.left.Add(-int64(len(b))) < 0 {
		_ = c.Close()
	}
	return c.Conn.Write(b)
}

// An upload that is cut off leaves nothing, and is made again.
func TestCutUpload(t *testing.T) {
	m := boot(t)
	cfg := m.config(t)
	var cuts atomic.Int64
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		nc, err := m.dial(ctx)
		if err != nil || cuts.Add(1) > 1 {
			return nc, err
		}
		left := new(atomic.Int64)
		left.Store(1 << 20)
		return cutConn{nc, left}, nil
	}
	c := newConn(t, cfg)
	wantError(t, run(t, c, "true"), "put agentlab-guest")
	if _, err := os.Stat(m.path("guest/agentlab-guest")); err == nil {
		t.Error("a part of it has its name")
	}
	m.wantClean(t)
	check(t, run(t, c, "true"))
}

// What stands in the program's place is run only if it is the program.
func TestSpoiltProgram(t *testing.T) {
	m := boot(t)
	check(t, os.Mkdir(m.path("guest"), 0o700))
	check(t, os.WriteFile(m.path("guest/agentlab-guest"), []byte("#!/bin/sh\ntouch "+m.path("ran")+"\n"), 0o700)) //nolint:gosec // a program
	check(t, run(t, m.conn(t), "true"))
	if _, err := os.Stat(m.path("ran")); err == nil {
		t.Error("it was run")
	}
}

// Where agentlab-guest can't be, the error says which channel needs none.
func TestNoPlace(t *testing.T) {
	const advice = "channel: agent"
	t.Run("another_machine", func(t *testing.T) {
		m := boot(t)
		cfg := m.config(t)
		text, err := os.ReadFile(guestBinary)
		check(t, err)
		const machine, x86, arm = 18, 62, 183 // where ELF has it (e_machine), and two values
		text[machine] = x86 + arm - text[machine]
		cfg.Program = m.path("other")
		check(t, os.WriteFile(cfg.Program, text, 0o600))
		wantError(t, run(t, newConn(t, cfg), "true"), "the machine is", "x86_64", "aarch64", advice)
	})
	t.Run("no_directory", func(t *testing.T) {
		m := boot(t)
		m.write(t, "guest", "not a directory")
		wantError(t, run(t, m.conn(t), "true"), "put agentlab-guest", advice)
	})
	t.Run("noexec", func(t *testing.T) {
		if os.Getuid() != 0 {
			return // only root mounts
		}
		m := boot(t)
		check(t, os.Mkdir(m.path("guest"), 0o700))
		check(t, exec.Command("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", m.path("guest")).Run())
		t.Cleanup(func() { check(t, exec.Command("umount", "-l", m.path("guest")).Run()) })
		wantError(t, run(t, m.conn(t), "true"), "noexec", advice)
	})
}
