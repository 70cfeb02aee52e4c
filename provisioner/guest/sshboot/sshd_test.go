package sshboot_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
)

const sshd = "/usr/sbin/sshd"

// guestBinary is the agentlab-guest that the tests put into machines.
var guestBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sshboot")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Under nohup all in the machines would ignore HUP. What is caught here
		// is not ignored there.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		guestBinary = filepath.Join(dir, "agentlab-guest")
		build := exec.Command("go", "build", "-ldflags=-s -w", "-o", guestBinary, "github.com/agentlab-mcp/agentlab/cmd/agentlab-guest")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build agentlab-guest: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// machine is one whose SSH server is OpenSSH's, run as inetd would: each
// connection has its own process.
type machine struct {
	dir    string // of its files
	home   string // an empty directory
	user   string
	client ed25519.PrivateKey

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn // every connection made to it
	servers  map[*exec.Cmd]bool
	logins   int
}

// boot starts a machine. Lines go into its sshd_config before all others.
func boot(t testing.TB, lines ...string) *machine {
	t.Helper()
	if _, err := os.Stat(sshd); err != nil {
		t.Fatalf("this test needs OpenSSH's server (package openssh-server): %v", err)
	}
	if os.Getuid() == 0 { // where it confines what has not logged in; a service would make it
		check(t, os.MkdirAll("/run/sshd", 0o755))
	}
	// Not t.TempDir: the path of a socket must be short.
	root, err := os.MkdirTemp("", "b") //nolint:usetesting // see above
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(root)) })
	me, err := user.Current()
	check(t, err)
	m := &machine{dir: root, home: filepath.Join(root, "home"), user: me.Username, servers: map[*exec.Cmd]bool{}}
	check(t, os.Mkdir(m.home, 0o700))
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	m.client = private
	key, err := ssh.NewPublicKey(public)
	check(t, err)
	m.write(t, "authorized_keys", string(ssh.MarshalAuthorizedKey(key)))
	m.newHostKey(t)
	m.write(t, "sshd_config", strings.Join(append(lines,
		"HostKey "+m.path("host_key"), "AuthorizedKeysFile "+m.path("authorized_keys"), "StrictModes no", "UsePAM no",
		"PermitRootLogin yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "LogLevel ERROR", "PidFile none",
		"SetEnv HOME="+m.home), "\n")+"\n")
	t.Cleanup(func() { m.stop(); m.killGuest(t) })
	m.serve(t)
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(t testing.TB, name, text string) {
	t.Helper()
	check(t, os.WriteFile(m.path(name), []byte(text), 0o600))
}

// newHostKey gives the machine another host key.
func (m *machine) newHostKey(t testing.TB) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	check(t, err)
	m.write(t, "host_key", string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	check(t, err)
	m.write(t, "host_key.pub", string(ssh.MarshalAuthorizedKey(key)))
}

func (m *machine) hostKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	text, err := os.ReadFile(m.path("host_key.pub"))
	check(t, err)
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	check(t, err)
	return key
}

// serve starts the SSH server.
func (m *machine) serve(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listener = l
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			m.login(t, nc)
		}
	}()
}

// login starts a process of the server for nc.
func (m *machine) login(t testing.TB, nc net.Conn) {
	defer nc.Close()
	f, err := nc.(*net.TCPConn).File()
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	cmd := exec.Command(sshd, "-i", "-e", "-f", m.path("sshd_config"))
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has a child, and that runs commands in sessions of their own
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	m.logins++
	m.servers[cmd] = true
	go func() {
		_ = cmd.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.servers, cmd)
	}()
}

// signal signals all that serves connections.
func (m *machine) signal(sig syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for cmd := range m.servers {
		_ = syscall.Kill(-cmd.Process.Pid, sig) // it may have ended
	}
}

// stop kills the SSH server and what serves its connections.
func (m *machine) stop() {
	_ = m.listener.Close()
	m.signal(syscall.SIGKILL)
}

// dial connects to the SSH server.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	address := m.listener.Addr().String()
	m.mu.Unlock()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, nc)
	return nc, nil
}

// cut closes every connection made so far.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, nc := range m.conns {
		_ = nc.Close()
	}
	m.conns = nil
}

// guestPIDs returns the processes that are an agentlab-guest in the machine.
func (m *machine) guestPIDs(t testing.TB) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, path := range all {
		text, _ := os.ReadFile(path) // it may have ended
		if args := strings.Split(string(text), "\x00"); len(args) > 2 && args[1] == "daemon" && strings.HasPrefix(args[2], m.dir+"/") {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			check(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// guestPID returns the process that is the only one.
func (m *machine) guestPID(t testing.TB) int {
	t.Helper()
	pids := m.guestPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("agentlab-guest runs as %v", pids)
	}
	return pids[0]
}

// killGuest kills agentlab-guest and waits for its end.
func (m *machine) killGuest(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		pids := m.guestPIDs(t)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("agentlab-guest, process %v, does not die", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// config is how to reach the machine.
func (m *machine) config(t testing.TB) sshboot.Config {
	t.Helper()
	signer, err := ssh.NewSignerFromSigner(m.client)
	check(t, err)
	return sshboot.Config{
		Dial: m.dial, User: m.user, HostKeys: []ssh.PublicKey{m.hostKey(t)}, Signer: signer,
		GuestKey: make([]byte, ed25519.SeedSize), Program: guestBinary, Home: m.home, Dir: m.path("guest"),
	}
}

// conn returns a Conn to the machine.
func (m *machine) conn(t testing.TB) *sshboot.Conn { return newConn(t, m.config(t)) }

func newConn(t testing.TB, cfg sshboot.Config) *sshboot.Conn {
	t.Helper()
	c, err := sshboot.New(cfg)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a script over c.
func run(t testing.TB, c guest.Conn, script string) error {
	t.Helper()
	_, err := output(t, c, script)
	return err
}

// output returns what a script over c prints.
func output(t testing.TB, c guest.Conn, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	exit, err := c.Run(ctx, guest.Cmd{Args: []string{"sh", "-c", script}}, guest.Streams{Stdout: &out, Stderr: &out})
	if err == nil && exit.Code != 0 {
		t.Errorf("%s: exit %+v: %s", script, exit, out.String())
	}
	return out.String(), err
}
