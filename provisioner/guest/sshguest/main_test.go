package sshguest_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// nobody is whom the guest runs as when the tests run as root: so it is refused
// things, as root never is.
const nobody = 65534

// guestBinary is the agentlab-guest that the tests drive.
var guestBinary string

func TestMain(m *testing.M) {
	// As its ProxyCommand, ssh runs this binary to reach a Unix socket.
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "-proxy=") {
		os.Exit(proxy(strings.TrimPrefix(os.Args[1], "-proxy=")))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sshguest")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o711); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// Under nohup the guest, and all it starts, would ignore HUP. What is
		// caught here is not ignored there.
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

// proxy joins standard input and output to the Unix socket at path.
func proxy(path string) int {
	nc, err := net.Dial("unix", path)
	if err != nil {
		return 1
	}
	go func() { _, _ = io.Copy(nc, os.Stdin) }()
	_, _ = io.Copy(os.Stdout, nc)
	return 0
}

// machine is a running agentlab-guest.
type machine struct {
	dir    string // shared with it
	home   string
	pid    int
	client ed25519.PrivateKey
	host   ssh.PublicKey
	first  []byte // the session of its seed

	mu    sync.Mutex
	conns []net.Conn // every connection made to it
}

// start runs agentlab-guest as uid.
func start(t testing.TB, uid int) *machine {
	t.Helper()
	// Not t.TempDir: the path of a socket must be short, and its parents open to uid.
	root, err := os.MkdirTemp("", "g") //nolint:usetesting // see above
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	check(t, os.Chmod(root, 0o711))
	m := &machine{dir: filepath.Join(root, "run"), home: filepath.Join(root, "home")}
	hostKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	m.host, err = ssh.NewPublicKey(hostKey.Public())
	check(t, err)
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	m.client = private
	m.first = wire.MakeSession().Payload()
	seed, err := json.Marshal(guest.Seed{HostKey: hostKey.Seed(), ClientKey: public, Session: m.first, Home: m.home})
	check(t, err)
	for _, dir := range []string{m.dir, m.home} {
		check(t, os.Mkdir(dir, 0o700))
	}
	check(t, os.WriteFile(filepath.Join(m.dir, guest.SeedFile), seed, 0o600))
	cmd := exec.Command(guestBinary, "serve", m.dir)
	cmd.Stderr = os.Stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if uid != os.Getuid() {
		check(t, exec.Command("chown", "-R", fmt.Sprint(uid), m.dir, m.home).Run())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	check(t, cmd.Start())
	m.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return m
}

// dial connects as soon as the socket is there.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	path := filepath.Join(m.dir, guest.Socket)
	for {
		nc, err := net.Dial("unix", path)
		if err == nil {
			m.mu.Lock()
			m.conns = append(m.conns, nc)
			m.mu.Unlock()
			return nc, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
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

// conn returns a Conn to the machine.
func (m *machine) conn(t testing.TB) *sshguest.Conn {
	t.Helper()
	signer, err := ssh.NewSignerFromSigner(m.client)
	check(t, err)
	c := sshguest.New(sshguest.Config{Dial: m.dial, User: "root", HostKey: m.host, Signer: signer})
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
