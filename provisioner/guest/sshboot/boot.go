package sshboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

//go:embed sh/*.sh
var scripts embed.FS

// answers of our scripts, among what the login shell of a user may print.
var (
	needs   = regexp.MustCompile(`(?m)^agentlab-guest needed on ([A-Za-z0-9_.-]{1,40})$`)
	listens = regexp.MustCompile(`(?m)^agentlab-guest listens in (/[^\x00-\x1f]{1,90})$`)
)

// boot sees to it that agentlab-guest listens, and finds the way to it.
func (l *login) boot(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.close)()
	err := l.start(ctx)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	nc, err := l.connect(ctx)
	if err == nil {
		return nc.Close()
	}
	if l.broken() {
		return err
	}
	// It listens, so it is the SSH server that does not let us through: it has
	// AllowStreamLocalForwarding or DisableForwarding set.
	if l.relay, err = l.openRelay(); err != nil {
		return errors.Join(context.Cause(ctx), fmt.Errorf("reach agentlab-guest through a session: %w", err))
	}
	return nil
}

// start starts agentlab-guest, and puts it there if it is missing.
func (l *login) start(ctx context.Context) error {
	program, err := readProgram(l.door.cfg.Program)
	if err != nil {
		return err
	}
	seed, err := json.Marshal(l.door.seed)
	if err != nil {
		return fmt.Errorf("encode seed: %w", err)
	}
	for sent := false; ; sent = true {
		said, err := l.script("start", program, bytes.NewReader(seed))
		if err != nil {
			return fmt.Errorf("start agentlab-guest: %w: %w", err, errAdvice)
		}
		if m := listens.FindStringSubmatch(said); m != nil {
			l.dir = m[1]
			return nil
		}
		m := needs.FindStringSubmatch(said)
		switch {
		case m == nil:
			return fmt.Errorf("start agentlab-guest: the machine says %.200q", said)
		case m[1] != program.machine:
			return fmt.Errorf("the machine is %s, our agentlab-guest is for %s: %w", m[1], program.machine, errAdvice)
		case sent:
			return fmt.Errorf("put agentlab-guest into the machine: it does not stay there: %w", errAdvice)
		}
		if _, err := l.script("put", program, bytes.NewReader(program.text)); err != nil {
			return fmt.Errorf("put agentlab-guest into the machine: %w: %w", err, errAdvice)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// program is our agentlab-guest.
type program struct {
	text    []byte
	sum     string // SHA-256
	machine string // that it runs on, as uname -m says it
}

func readProgram(path string) (program, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return program{}, fmt.Errorf("read agentlab-guest: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return program{}, fmt.Errorf("read agentlab-guest: %s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	p := program{text: text, sum: hex.EncodeToString(sum[:])}
	switch f.Machine {
	case elf.EM_X86_64:
		p.machine = "x86_64"
	case elf.EM_AARCH64:
		p.machine = "aarch64"
	default:
		return program{}, fmt.Errorf("read agentlab-guest: %s is for %v", path, f.Machine)
	}
	return p, nil
}

// script runs a script of ours in the machine, with what is in stdin, and
// returns what it printed. It comes on standard input, as what users give does.
func (l *login) script(name string, p program, stdin io.Reader) (string, error) {
	where, err := scripts.ReadFile("sh/dir.sh")
	if err != nil {
		return "", err
	}
	what, err := scripts.ReadFile("sh/" + name + ".sh")
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("dir=%s sum=%s version=%s\n%s%s",
		quote(l.door.cfg.Dir), p.sum, strings.TrimPrefix(wire.Version, "SSH-2.0-"), where, what)
	s, err := l.client.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, errOut := &said{close: l.close}, &said{close: l.close}
	s.Stdout, s.Stderr = out, errOut
	in, err := s.StdinPipe()
	if err != nil {
		return "", err
	}
	// Any shell takes that, whatever the user's is.
	if err := s.Start(fmt.Sprintf(`exec /bin/sh -c 'eval "$(dd bs=1 count=%d 2>/dev/null)"'`, len(text))); err != nil {
		return "", err
	}
	go func() {
		_, _ = io.Copy(in, io.MultiReader(strings.NewReader(text), stdin)) // it may end before its input
		_ = in.Close()
	}()
	err = s.Wait()
	if out.full || errOut.full {
		return "", fmt.Errorf("the machine prints more than %d bytes", maxSaid)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, errOut.tail())
	}
	return out.text.String(), nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// maxSaid is how much the machine may print, in bytes.
const maxSaid = 64 << 10

// said is what a machine prints. One that prints too much is left.
type said struct {
	text  bytes.Buffer // embedded, its ReadFrom would take any amount
	full  bool
	close func()
}

func (s *said) Write(b []byte) (int, error) {
	if s.text.Len()+len(b) > maxSaid {
		s.full = true
		s.close()
		return 0, io.ErrShortWrite
	}
	return s.text.Write(b)
}

// tail is the end, for an error.
func (s *said) tail() string {
	b := bytes.TrimSpace(s.text.Bytes())
	return string(bytes.ToValidUTF8(b[max(0, len(b)-300):], []byte("?")))
}

// openRelay reaches agentlab-guest through a session that joins its standard
// input and output to the socket, and makes of that a connection that
// takes any number of channels.
func (l *login) openRelay() (*ssh.Client, error) {
	s, err := l.client.NewSession()
	if err != nil {
		return nil, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.Start("exec " + quote(path.Dir(l.dir)+"/agentlab-guest") + " dial " + quote(l.dir)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	nc := wire.Channel(sessionPipe{out, in, s})
	sc, channels, requests, err := ssh.NewClientConn(nc, "guest", l.door.inner.ClientConfig())
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return ssh.NewClient(sc, channels, requests), nil
}

// sessionPipe is the standard input and output of a session.
type sessionPipe struct {
	io.Reader
	io.Writer
	session *ssh.Session
}

func (p sessionPipe) Close() error { return p.session.Close() }
