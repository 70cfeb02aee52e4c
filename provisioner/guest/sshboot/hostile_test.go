package sshboot_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
)

// hostile returns a Conn to an SSH server that is serve.
func hostile(t *testing.T, serve func(nc net.Conn, config *ssh.ServerConfig)) *sshboot.Conn {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromSigner(private)
	check(t, err)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				serve(nc, config)
			}()
		}
	}()
	return newConn(t, sshboot.Config{
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String())
		},
		User: "root", HostKeys: []ssh.PublicKey{signer.PublicKey()}, Signer: signer, GuestKey: make([]byte, ed25519.SeedSize),
		Program: guestBinary, LoginTime: time.Second,
	})
}

// flood writes text until it can't any more.
func flood(write func([]byte) (int, error), text string) {
	for piece := bytes.Repeat([]byte(text), 1000); ; {
		if _, err := write(piece); err != nil {
			return
		}
	}
}

// A server that talks for ever before it says who it is is left.
func TestFloodBeforeVersion(t *testing.T) {
	c := hostile(t, func(nc net.Conn, _ *ssh.ServerConfig) { flood(nc.Write, "welcome\r\n") })
	wantError(t, run(t, c, "true"), "log in")
}

// And so is one that says nothing.
func TestSilentServer(t *testing.T) {
	c := hostile(t, func(nc net.Conn, _ *ssh.ServerConfig) { _, _ = nc.Read(make([]byte, 1)); select {} })
	wantError(t, run(t, c, "true"), "log in")
}

// A machine that prints without end, or lies, gets no further.
func TestMachineLies(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(ch ssh.Channel)
		want string
	}{
		{"flood", func(ch ssh.Channel) { flood(ch.Write, "noise\n") }, "prints more than"},
		{"flood_errors", func(ch ssh.Channel) { flood(ch.Stderr().Write, "noise\n") }, "prints more than"},
		{"nonsense", func(ch ssh.Channel) { _, _ = ch.Write([]byte("\x00\x1b[2Jhello\n")) }, `hello`},
		{"elsewhere", func(ch ssh.Channel) {
			_, _ = ch.Write([]byte("agentlab-guest listens in /" + strings.Repeat("x", 200) + "\n"))
		}, "the machine says"},
		{"always_missing", func(ch ssh.Channel) { _, _ = ch.Write([]byte("agentlab-guest needed on x86_64\n")) }, "channel: agent"},
		{"nobody_listens", func(ch ssh.Channel) { _, _ = ch.Write([]byte("agentlab-guest listens in /nowhere\n")) }, "through a session"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := hostile(t, func(nc net.Conn, config *ssh.ServerConfig) {
				_, channels, requests, err := ssh.NewServerConn(nc, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for nc := range channels {
					if nc.ChannelType() != "session" {
						_ = nc.Reject(ssh.ConnectionFailed, "open failed")
						continue
					}
					ch, requests, err := nc.Accept()
					if err != nil {
						return
					}
					go func() {
						for r := range requests {
							_ = r.Reply(true, nil)
							tt.say(ch)
							_, _ = ch.SendRequest("exit-status", false, make([]byte, 4))
							_ = ch.Close()
						}
					}()
				}
			})
			wantError(t, run(t, c, "true"), tt.want)
		})
	}
}
