package sshguest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// session makes a session with m as the host does.
func (m *machine) session(t *testing.T) *wire.Session {
	t.Helper()
	nc, err := m.dial(t.Context())
	check(t, err)
	defer nc.Close()
	signer, err := ssh.NewSignerFromSigner(m.client)
	check(t, err)
	sc, _, requests, err := ssh.NewClientConn(nc, "guest", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(m.host),
	})
	check(t, err)
	go ssh.DiscardRequests(requests)
	_, payload, err := sc.SendRequest(wire.NewSession, true, nil)
	check(t, err)
	s, err := wire.ParseSession(payload)
	check(t, err)
	return s
}

// join makes a connection of s to m for what, and returns it with the error.
func (m *machine) join(t *testing.T, s *wire.Session, what string, req any) (net.Conn, error) {
	t.Helper()
	nc, err := m.dial(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	check(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	args, err := json.Marshal(req)
	check(t, err)
	first, err := wire.Frame(wire.Open{For: what, Args: args})
	check(t, err)
	return nc, s.Join(nc, first)
}

// wantEnd checks that the guest says nothing more on nc.
func wantEnd(t *testing.T, nc net.Conn) {
	t.Helper()
	if text, err := io.ReadAll(nc); len(text) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the guest says %q, error %v", text, err)
	}
}

// The session of the seed opens the door without SSH, to who knows it, and once.
func TestSessionOfSeed(t *testing.T) {
	m := start(t, os.Getuid())
	signer, err := ssh.NewSignerFromSigner(m.client)
	check(t, err)
	public, _, err := ed25519.GenerateKey(nil)
	check(t, err)
	other, err := ssh.NewPublicKey(public)
	check(t, err)
	run := func(session []byte, key ssh.PublicKey) (*sshguest.Conn, error) {
		c := sshguest.New(sshguest.Config{Dial: m.dial, HostKey: key, Signer: signer, Session: session})
		t.Cleanup(func() { check(t, c.Close()) })
		_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{})
		return c, err
	}
	guessed := append(m.first[:len(m.first)-1:len(m.first)-1], m.first[len(m.first)-1]+1)
	if _, err := run(guessed, other); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("with a wrong secret and a wrong host key: %v", err)
	}
	first, err := run(m.first, other)
	if err != nil {
		t.Fatalf("the host key is asked for, though there is a session: %v", err)
	}
	check(t, first.Close())
	if _, err := run(m.first, other); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("the second time, with a wrong host key: %v", err)
	}
	if _, err := run(m.first, m.host); err != nil {
		t.Errorf("the second time, with the right one: %v", err)
	}
}

// Who knows a session's name but not its secret is sent away, and what he asked
// for is not done.
func TestDoorNeedsSecret(t *testing.T) {
	m := start(t, os.Getuid())
	real := m.session(t)
	mark := filepath.Join(m.home, "ran")
	run := wire.RunRequest{Cmd: wire.FromCmd(guest.Cmd{Args: []string{"touch", mark}})}
	first, err := json.Marshal(run)
	check(t, err)
	frame, err := wire.Frame(wire.Open{For: wire.Run, Args: first})
	check(t, err)

	for name, id := range map[string]wire.ID{"wrong_secret": real.ID, "no_session": {1, 2, 3}} {
		t.Run(name, func(t *testing.T) {
			nc, err := m.dial(t.Context())
			check(t, err)
			defer nc.Close()
			check(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
			hello := append([]byte("AgentLab"), id[:]...)
			_, err = nc.Write(append(hello, make([]byte, 16)...))
			check(t, err)
			if id == real.ID {
				_, err = io.ReadFull(nc, make([]byte, 48))
				check(t, err)
			}
			_, _ = nc.Write(append(make([]byte, 32), frame...)) // a proof of nothing
			wantEnd(t, nc)
		})
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a stranger's command ran")
	}
	nc, err := m.join(t, real, wire.Run, run) // the door is not just shut
	check(t, err)
	in := wire.NewStreamReader(nc)
	if kind, err := in.Next(); err != nil || kind != wire.End {
		t.Errorf("the host's command: %v, %v", kind, err)
	}
}

// All of a session ends with its connection for calls, and nobody joins it again.
func TestSessionEndsWithItsCalls(t *testing.T) {
	m := start(t, os.Getuid())
	s := m.session(t)
	calls, err := m.join(t, s, wire.Calls, nil)
	check(t, err)
	sleep, err := m.join(t, s, wire.Run, wire.RunRequest{Cmd: wire.FromCmd(guest.Cmd{Args: []string{"sh", "-c", "echo up; exec sleep 4713"}})})
	check(t, err)
	in := wire.NewStreamReader(sleep)
	if kind, err := in.Next(); err != nil || kind != wire.Data {
		t.Fatalf("%v, %v", kind, err)
	}
	second, err := m.join(t, s, wire.Calls, nil)
	check(t, err)
	wantEnd(t, second) // there is one already
	check(t, calls.Close())
	if kind, err := in.Next(); err == nil {
		t.Errorf("the stream goes on: %v", kind)
	}
	if _, err := m.join(t, s, wire.Run, wire.RunRequest{}); err == nil {
		t.Error("a session that ended was joined")
	}
}

// heardConn keeps what is sent to an impostor, who answers what looks right.
type heardConn struct {
	net.Conn
	heard bytes.Buffer
	said  int
}

func (c *heardConn) Write(b []byte) (int, error) { return c.heard.Write(b) }

func (c *heardConn) Read(b []byte) (int, error) {
	const answer = 48
	if c.said >= answer {
		return 0, io.EOF
	}
	n := min(len(b), answer-c.said)
	c.said += n
	clear(b[:n])
	return n, nil
}

// Who stands in the guest's place after the keys were shown learns nothing.
func TestImpostorLearnsNothing(t *testing.T) {
	m := start(t, os.Getuid())
	signer, err := ssh.NewSignerFromSigner(m.client)
	check(t, err)
	dials := 0
	var impostors []*heardConn
	c := sshguest.New(sshguest.Config{HostKey: m.host, Signer: signer, Dial: func(ctx context.Context) (net.Conn, error) {
		nc, err := m.dial(ctx)
		if dials++; err != nil || dials == 1 {
			return nc, err
		}
		i := &heardConn{Conn: nc}
		impostors = append(impostors, i)
		return i, nil
	}})
	defer c.Close()
	_, err = c.Run(t.Context(), guest.Cmd{Args: []string{"echo", "s3cret"}}, guest.Streams{})
	if !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
	for _, i := range impostors {
		if n := i.heard.Len(); n != 40 { // the name of the session, and a number used once
			t.Errorf("it hears %d bytes", n)
		}
	}
	if len(impostors) == 0 {
		t.Error("nobody was asked")
	}
}
