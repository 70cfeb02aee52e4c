package sshd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/sshd"
	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

// daemon is the far side of a terminal.
type daemon func(t *testing.T, req terminal.Request, in io.Reader, out *terminal.Writer)

// connect returns an SSH client of a server whose terminals are a daemon's. Both have
// ended when the test has.
func connect(t *testing.T, user string, d daemon) *ssh.Client {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	ours, theirs := net.Pipe()
	server := sshd.Server{Key: key, Sandbox: "sb-1", Explain: error.Error, Open: func(context.Context) (io.ReadWriteCloser, error) {
		if d == nil {
			return nil, errors.New("no daemon")
		}
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			kind, part, err := terminal.Read(theirs)
			req, derr := terminal.Decode[terminal.Request](part)
			if err != nil || derr != nil || (kind == terminal.Serve) != (req.Service != nil) {
				t.Errorf("first part: kind %d, %v, %v", kind, err, derr)
			}
			d(t, req, theirs, terminal.NewWriter(theirs))
		}()
		return ours, nil
	}}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(t.Context(), theirs) }()
	known, err := sshd.KnownHost("box", key)
	check(t, err)
	_, _, public, _, _, err := ssh.ParseKnownHosts([]byte(known))
	check(t, err)
	conn, channels, requests, err := ssh.NewClientConn(ours, "box", &ssh.ClientConfig{User: user, HostKeyCallback: ssh.FixedHostKey(public)})
	check(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return ssh.NewClient(conn, channels, requests)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// note is check for a daemon, which is another goroutine.
func note(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// exits is a daemon whose commands say what they were asked for, and end with a code.
func exits(code int) daemon {
	return func(t *testing.T, req terminal.Request, _ io.Reader, out *terminal.Writer) {
		text := req.Sandbox + " " + req.User + " " + req.Command + " " + req.Env["LANG"] + req.Env["LC_ALL"] + req.Env["LD_PRELOAD"]
		if req.TTY != nil {
			text += " " + req.TTY.Term
		}
		note(t, out.Send(terminal.Output, []byte(text)))
		note(t, out.SendJSON(terminal.Exited, terminal.Exit{Code: code}))
	}
}

func TestCommand(t *testing.T) {
	for user, want := range map[string]string{sshd.DefaultUser: "sb-1  ls C.UTF-8de vt100", "bob": "sb-1 bob ls C.UTF-8de vt100"} {
		s, err := connect(t, user, exits(7)).NewSession()
		check(t, err)
		check(t, s.Setenv("LANG", "C.UTF-8"))
		check(t, s.Setenv("LC_ALL", "de"))
		if s.Setenv("LD_PRELOAD", "x") == nil {
			t.Error("LD_PRELOAD is taken")
		}
		check(t, s.RequestPty("vt100", 24, 80, nil))
		out, err := s.Output("ls")
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 7 || string(out) != want {
			t.Errorf("got %q, %v; want %q", out, err, want)
		}
	}
}

// What keeps a command from running stands on its standard error.
func TestNotRun(t *testing.T) {
	failed := func(t *testing.T, _ terminal.Request, _ io.Reader, out *terminal.Writer) {
		note(t, out.SendJSON(terminal.Failed, terminal.Failure{Kind: "conflict", Text: "it has ended"}))
	}
	broke := func(*testing.T, terminal.Request, io.Reader, *terminal.Writer) {}
	for _, tt := range []struct {
		d    daemon
		want string
	}{{nil, "agentlab: no daemon\r\n"}, {failed, "agentlab: it has ended\r\n"}, {broke, "agentlab: the daemon went away, and with it the command\r\n"}} {
		s, err := connect(t, "x", tt.d).NewSession()
		check(t, err)
		var said bytes.Buffer
		s.Stderr = &said
		var exit *ssh.ExitError
		if err := s.Run("ls"); !errors.As(err, &exit) || exit.ExitStatus() != 125 || said.String() != tt.want {
			t.Errorf("got %q, %v; want %q", said.String(), err, tt.want)
		}
	}
}

// waits is a daemon whose commands run until they are ended, and tell when.
func waits(ended chan<- struct{}) daemon {
	return func(_ *testing.T, _ terminal.Request, in io.Reader, _ *terminal.Writer) {
		_, _ = io.Copy(io.Discard, in)
		ended <- struct{}{}
	}
}

func TestEnds(t *testing.T) {
	ended := make(chan struct{})
	client := connect(t, "x", waits(ended))
	t.Run("kill", func(t *testing.T) {
		s, err := client.NewSession()
		check(t, err)
		check(t, s.Start("sleep"))
		check(t, s.Signal(ssh.SIGKILL))
		<-ended
		var exit *ssh.ExitError
		if err := s.Wait(); !errors.As(err, &exit) || exit.Signal() != "KILL" {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		s, err := client.NewSession()
		check(t, err)
		check(t, s.Start("sleep"))
		check(t, s.Close())
		<-ended
	})
	t.Run("gone", func(t *testing.T) {
		s, err := client.NewSession()
		check(t, err)
		check(t, s.Start("sleep"))
		check(t, client.Close())
		<-ended
	})
}

func TestRefused(t *testing.T) {
	ended := make(chan struct{}, 1)
	client := connect(t, "x", waits(ended))
	s, err := client.NewSession()
	check(t, err)
	check(t, s.Start("sleep"))
	for _, r := range []struct{ kind, payload string }{
		{"exec", "\x00\x00\x00\x02ls"}, {"shell", ""}, {"subsystem", "\x00\x00\x00\x04sftp"}, {"subsystem", "\x00\x00\x00\x05other"},
		{"pty-req", ""}, {"window-change", ""}, {"signal", "\x00\x00\x00\x04TERM"}, {"env", "\x00\x00\x00\x04LANG\x00\x00\x00\x01C"},
		{"auth-agent-req@openssh.com", ""}, {"x11-req", ""}, {"exec", "\xff"},
	} {
		if ok, err := s.SendRequest(r.kind, true, []byte(r.payload)); ok || err != nil {
			t.Errorf("%s %q: got %v, %v", r.kind, r.payload, ok, err)
		}
	}
	if ok, _, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
		Host string
		Port uint32
	}{"localhost", 0})); ok || err != nil {
		t.Errorf("tcpip-forward: got %v, %v", ok, err)
	}
	for kind, want := range map[string]string{"direct-streamlocal@openssh.com": "unknown channel type", "x11": "unknown channel type", "direct-tcpip": "malformed request"} {
		if _, _, err := client.OpenChannel(kind, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", kind, err)
		}
	}
}

// Of one connection there are so many channels and no more, until one has ended.
func TestManyChannels(t *testing.T) {
	const most = 64
	ended := make(chan struct{}, most)
	client := connect(t, "x", waits(ended))
	var first *ssh.Session
	for range most {
		s, err := client.NewSession()
		check(t, err)
		check(t, s.Start("sleep"))
		first = s
	}
	if _, err := client.NewSession(); err == nil || !strings.Contains(err.Error(), "the most there may be at a time") {
		t.Errorf("one more: %v", err)
	}
	check(t, first.Close())
	<-ended
	for {
		if _, err := client.NewSession(); err == nil {
			return // its place is free a moment after it has ended
		}
	}
}

func TestForward(t *testing.T) {
	says := func(first string) daemon {
		return func(t *testing.T, req terminal.Request, in io.Reader, out *terminal.Writer) {
			if req.Service == nil || req.Service.Port != 80 {
				t.Errorf("asked for %+v", req)
			}
			note(t, out.Send(terminal.Output, []byte(first)))
			if first == "" || first[0] != '\n' {
				_ = out.SendJSON(terminal.Exited, terminal.Exit{Code: 1}) // to who may have left
				return
			}
			note(t, out.Send(terminal.More, nil))
			_, part, err := terminal.Read(in)
			note(t, err)
			note(t, out.Send(terminal.Output, bytes.ToUpper(part)))
			note(t, out.SendJSON(terminal.Exited, terminal.Exit{}))
		}
	}
	for _, tt := range []struct {
		to, first, want string
	}{
		{"localhost:80", "\n", "IN"},
		{"127.0.0.1:80", "\nhead ", "head IN"},
		{"[::1]:80", "\n", "IN"},
		{"localhost:80", "", "nothing answers on port 80"},
		{"localhost:80", "not a line", "nothing answers on port 80"},
		{"10.0.0.1:80", "", "only ports of the sandbox"},
		{"example.com:80", "", "only ports of the sandbox"},
		{"127.0.0.2:80", "", "only ports of the sandbox"},
		{"0.0.0.0:80", "", "only ports of the sandbox"},
		{"[::ffff:10.0.0.1]:80", "", "only ports of the sandbox"},
		{"localhost:0", "", "port 0"},
	} {
		conn, err := connect(t, "x", says(tt.first)).Dial("tcp", tt.to)
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %s", tt.to, err, tt.want)
			}
			continue
		}
		_, err = io.WriteString(conn, "in")
		check(t, err)
		if got, err := io.ReadAll(conn); string(got) != tt.want || err != nil {
			t.Errorf("%s: got %q, %v; want %s", tt.to, got, err, tt.want)
		}
	}
}

// A connection that its client has closed ends what serves it.
func TestForwardEnds(t *testing.T) {
	ended := make(chan struct{})
	conn, err := connect(t, "x", func(t *testing.T, _ terminal.Request, in io.Reader, out *terminal.Writer) {
		note(t, out.Send(terminal.Output, []byte("\n")))
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}).Dial("tcp", "localhost:80")
	check(t, err)
	check(t, conn.Close())
	<-ended
}

// What a client said before it closed a connection gets to the port, and what that
// says no longer matters.
func TestForwardLastWords(t *testing.T) { synctest.Test(t, testForwardLastWords) }

func testForwardLastWords(t *testing.T) {
	closed, ended := make(chan struct{}), make(chan string)
	client := connect(t, "x", func(t *testing.T, _ terminal.Request, in io.Reader, out *terminal.Writer) {
		defer close(ended)
		note(t, out.Send(terminal.Output, []byte("\n")))
		<-closed
		note(t, out.Send(terminal.Output, []byte("to nobody")))
		for range 2 {
			note(t, out.Send(terminal.More, nil))
			kind, part, err := terminal.Read(in)
			note(t, err)
			if kind == terminal.Input {
				ended <- string(part)
			}
		}
		note(t, out.SendJSON(terminal.Exited, terminal.Exit{}))
	})
	conn, err := client.Dial("tcp", "localhost:80")
	check(t, err)
	_, err = io.WriteString(conn, "last words")
	check(t, err)
	check(t, conn.Close())
	synctest.Wait()
	close(closed)
	if got := <-ended; got != "last words" {
		t.Errorf("got %q", got)
	}
	<-ended
}
