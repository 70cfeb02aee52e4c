package pve_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// sshNode is a node's sshd: a real SSH server that really runs commands.
type sshNode struct {
	addr    string
	hostKey ssh.Signer
	user    ssh.Signer

	mu    sync.Mutex
	conns []net.Conn
	procs []*os.Process
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newSSHNode(t *testing.T) *sshNode {
	t.Helper()
	n := &sshNode{hostKey: newSigner(t), user: newSigner(t)}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), n.user.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(n.hostKey)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	// What is started under nohup ignores it, and so would its children; those of sshd don't.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hup) })
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); n.drop(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			n.conns = append(n.conns, conn)
			n.mu.Unlock()
			wg.Go(func() { n.serve(conn, config, &wg) })
		}
	})
	return n
}

func (n *sshNode) serve(conn net.Conn, config *ssh.ServerConfig, wg *sync.WaitGroup) {
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		conn.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { n.session(channel, requests) })
	}
}

func (n *sshNode) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for req := range requests {
		if req.Type != "exec" {
			_ = req.Reply(false, nil)
			continue
		}
		_ = req.Reply(true, nil)
		var p struct{ Command string }
		_ = ssh.Unmarshal(req.Payload, &p)
		cmd := exec.Command("sh", "-c", p.Command)
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as sshd does
		stdin, _ := cmd.StdinPipe()
		if err := cmd.Start(); err != nil {
			return
		}
		n.mu.Lock()
		n.procs = append(n.procs, cmd.Process)
		n.mu.Unlock()
		go func() { defer stdin.Close(); _, _ = io.Copy(stdin, channel) }()
		_ = cmd.Wait()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal     string
				Core       bool
				Text, Lang string
			}{Signal: "KILL"}))
			return
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(cmd.ProcessState.ExitCode())}))
		return
	}
}

func (n *sshNode) drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

// signal hits all processes of the sessions, as a hang-up does.
func (n *sshNode) signal(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.procs {
		_ = syscall.Kill(-p.Pid, sig)
	}
}

func (n *sshNode) shell(t *testing.T) *pve.SSH {
	s := &pve.SSH{Addr: n.addr, Config: &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(n.user)}, HostKeyCallback: ssh.FixedHostKey(n.hostKey.PublicKey()),
	}}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
