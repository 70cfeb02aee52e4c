package pve

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// handshake is how long a connection to a node may take to come up.
const handshake = 20 * time.Second

// capture is what a script writes, at most so many bytes to each stream: the
// rest is not read, and who has not written it before is told by stop to end.
type capture struct {
	stdout, stderr capped
}

func newCapture(longest int64, stop func()) *capture {
	one := capped{longest: longest, stop: sync.OnceFunc(stop)}
	return &capture{stdout: one, stderr: one}
}

// capped does not embed its buffer: io.Copy would fill that by itself.
type capped struct {
	kept    bytes.Buffer
	longest int64
	over    bool
	stop    func()
}

// Write implements [io.Writer].
func (c *capped) Write(p []byte) (int, error) {
	if int64(c.kept.Len()+len(p)) > c.longest {
		c.over = true
		c.stop()
		return 0, io.ErrShortWrite
	}
	return c.kept.Write(p)
}

// output returns what was written. It is an error if that is not all of it,
// however the script ended.
func (c *capture) output() (Output, error) {
	if c.stdout.over || c.stderr.over {
		return Output{}, &Error{Kind: TooLarge, Message: fmt.Sprintf("the output is longer than %d bytes", c.stdout.longest)}
	}
	return Output{c.stdout.kept.Bytes(), c.stderr.kept.Bytes(), 0}, nil
}

// Local is the Shell of a node on which AgentLab itself runs.
type Local struct {
	longest int64 // output, in bytes; zero is maxAnswer
}

// Run implements Shell.
func (l Local) Run(ctx context.Context, script string) (Output, error) {
	running, kill := context.WithCancel(ctx)
	defer kill()
	// A pipe that nobody reads ends most programs, and lets the script clean up.
	seen := newCapture(cmp.Or(l.longest, maxAnswer), func() { time.AfterFunc(time.Second, kill) })
	cmd := exec.CommandContext(running, "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &seen.stdout, &seen.stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	out, long := seen.output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && err != nil:
		return Output{}, ctx.Err()
	case long != nil:
		return Output{}, long
	case err == nil:
		return out, nil
	case !errors.As(err, &exit):
		return Output{}, &Error{Kind: Unreachable, Message: err.Error(), cause: err}
	}
	if out.Exit = exit.ExitCode(); out.Exit < 0 {
		return Output{}, &Error{Kind: ConnectionLost, Message: "the shell was killed: " + exit.String()}
	}
	return out, nil
}

// SSH is the Shell of a node that is reached over SSH, where the user must be
// root. It keeps one connection. Fill it in before the first call, and Close
// it after the last.
type SSH struct {
	Addr   string            // host:port
	Config *ssh.ClientConfig // with a HostKeyCallback

	longest int64 // output, in bytes; zero is maxAnswer

	mu     sync.Mutex
	client *ssh.Client
}

// Close closes the connection.
func (s *SSH) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	err := s.client.Close()
	s.client = nil
	return err
}

// Run implements Shell. When ctx ends it returns at once, whatever the state
// of the connection.
func (s *SSH) Run(ctx context.Context, script string) (Output, error) {
	type result struct {
		Output
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := s.run(ctx, script)
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.Output, r.err
	case <-ctx.Done():
		return Output{}, ctx.Err()
	}
}

func (s *SSH) run(ctx context.Context, script string) (Output, error) {
	session, err := s.session(ctx)
	if err != nil {
		return Output{}, err
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()

	// What is not read stops the other side for good, unless the session ends.
	seen := newCapture(cmp.Or(s.longest, maxAnswer), func() { _ = session.Close() })
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader(script), &seen.stdout, &seen.stderr
	err = session.Run("exec sh")
	out, long := seen.output()
	var exit *ssh.ExitError
	switch {
	case long != nil:
		return Output{}, long
	case err == nil:
		return out, nil
	case errors.As(err, &exit) && exit.Signal() == "":
		out.Exit = exit.ExitStatus()
		return out, nil
	}
	return Output{}, &Error{Kind: ConnectionLost, Message: err.Error(), cause: err}
}

// session opens a session on the kept connection, or on a new one if that is dead.
func (s *SSH) session(ctx context.Context) (*ssh.Session, error) {
	for {
		client, fresh, err := s.connect(ctx)
		if err != nil {
			return nil, err
		}
		session, err := client.NewSession()
		if err == nil {
			return session, nil
		}
		s.drop(client)
		if fresh {
			return nil, &Error{Kind: Unreachable, Message: err.Error(), cause: err}
		}
	}
}

func (s *SSH) drop(client *ssh.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == client {
		_ = s.client.Close()
		s.client = nil
	}
}

func (s *SSH) connect(ctx context.Context) (client *ssh.Client, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, false, nil
	}
	dialer := net.Dialer{Timeout: handshake, Control: giveUp}
	conn, err := dialer.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, false, s.unreachable(err, Unreachable)
	}
	_ = conn.SetDeadline(time.Now().Add(handshake))
	config, kind := s.watched()
	sc, channels, requests, err := ssh.NewClientConn(conn, s.Addr, config)
	if err != nil {
		_ = conn.Close()
		return nil, false, s.unreachable(err, kind.Load().(Kind))
	}
	_ = conn.SetDeadline(time.Time{})
	s.client = ssh.NewClient(sc, channels, requests)
	return s.client, true, nil
}

// watched returns the config with what a failure of the handshake would mean:
// before the host key, at it, or after it, where only who we are is left.
func (s *SSH) watched() (*ssh.ClientConfig, *atomic.Value) {
	var kind atomic.Value
	kind.Store(Unreachable)
	config := *s.Config
	if config.HostKeyCallback == nil {
		return &config, &kind // which ssh refuses
	}
	config.HostKeyCallback = func(host string, addr net.Addr, key ssh.PublicKey) error {
		if err := s.Config.HostKeyCallback(host, addr, key); err != nil {
			kind.Store(Untrusted)
			return err
		}
		kind.Store(Unauthorized)
		return nil
	}
	return &config, &kind
}

func (s *SSH) unreachable(err error, kind Kind) error {
	return &Error{Kind: kind, Message: fmt.Sprintf("connect to %s: %v", s.Addr, err), cause: err}
}

// giveUp makes a connection fail a minute after the other side has vanished;
// Linux alone would try for a quarter of an hour.
func giveUp(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 60_000)
	})
	return errors.Join(err, serr)
}
