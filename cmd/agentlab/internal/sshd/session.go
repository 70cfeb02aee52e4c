package sshd

import (
	"context"
	"io"
	"math"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

// ExitNotRun is the exit code of a command that could not be run, or whose end is
// not known.
const ExitNotRun = 125

// session is a channel for one command (RFC 4254, section 6).
type session struct {
	*client
	ch      ssh.Channel
	req     terminal.Request
	begun   bool
	running *terminal.Client // nil before, and if it could not be begun
	end     io.Closer        // of it, which kills the command
	killed  atomic.Bool
	ended   chan struct{} // closed when it has ended
}

// session serves one. It ends with its command, or with the channel, which ends that.
func (c *client) session(ctx context.Context, nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	s := &session{client: c, ch: ch, ended: make(chan struct{})}
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				if s.end != nil {
					_ = s.end.Close()
					<-s.ended
				}
				return
			}
			run, ok := s.request(ctx, r)
			if r.WantReply {
				_ = r.Reply(ok, nil) // fails with the connection
			}
			if run != nil { // the reply first: a client may wait for it before it reads
				go run()
			}
		case <-s.ended:
			go ssh.DiscardRequests(requests)
			return
		}
	}
}

// request answers one request, and returns what is to be run for it. The fields
// are those of RFC 4254.
func (s *session) request(ctx context.Context, r *ssh.Request) (run func(), ok bool) {
	switch r.Type {
	case "env":
		return nil, s.setEnv(r.Payload)
	case "pty-req":
		var tty struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}
		if s.begun || ssh.Unmarshal(r.Payload, &tty) != nil {
			return nil, false
		}
		s.req.TTY = &terminal.TTY{Term: tty.Term, Size: size(tty.Cols, tty.Rows)}
		return nil, true
	case "window-change":
		var to struct{ Cols, Rows, Width, Height uint32 }
		if s.running == nil || s.req.TTY == nil || ssh.Unmarshal(r.Payload, &to) != nil {
			return nil, false
		}
		return nil, s.running.Resize(size(to.Cols, to.Rows)) == nil
	case "signal":
		var signal struct{ Name string }
		if s.running == nil || ssh.Unmarshal(r.Payload, &signal) != nil || signal.Name != "KILL" {
			return nil, false // others are keys of a terminal
		}
		s.killed.Store(true)
		return nil, s.end.Close() == nil
	case "shell", "exec", "subsystem":
		return s.program(ctx, r)
	}
	return nil, false
}

func size(cols, rows uint32) terminal.Size {
	return terminal.Size{Cols: uint16(min(cols, math.MaxUint16)), Rows: uint16(min(rows, math.MaxUint16))}
}

// setEnv takes the variables that sshd takes where it is left as distributions
// have it, and TERM.
func (s *session) setEnv(payload []byte) bool {
	var env struct{ Name, Value string }
	if s.begun || ssh.Unmarshal(payload, &env) != nil ||
		env.Name != "LANG" && env.Name != "TERM" && !strings.HasPrefix(env.Name, "LC_") {
		return false
	}
	if s.req.Env == nil {
		s.req.Env = map[string]string{}
	}
	s.req.Env[env.Name] = env.Value
	return true
}

// program begins what the session is for: there is one.
func (s *session) program(ctx context.Context, r *ssh.Request) (run func(), ok bool) {
	var what struct{ Text string }
	if s.begun || r.Type != "shell" && ssh.Unmarshal(r.Payload, &what) != nil {
		return nil, false
	}
	switch {
	case r.Type == "exec":
		s.req.Command = what.Text
	case r.Type == "subsystem" && what.Text == "sftp":
		s.req.Service, s.req.TTY = &terminal.Service{Files: true}, nil
	case r.Type == "subsystem":
		return nil, false
	}
	s.begun = true
	var err error
	s.running, s.end, err = s.begin(ctx, s.req)
	if err != nil {
		return func() { s.exit(terminal.Exit{}, err) }, true
	}
	return func() { s.exit(s.running.Run(s.ch, s.ch, s.ch.Stderr())) }, true
}

// exit tells how the command ended.
func (s *session) exit(e terminal.Exit, err error) {
	defer close(s.ended)
	if s.killed.Load() {
		_ = s.ch.CloseWrite() // as all else here to who may be gone
		_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name          string
			Core          bool
			Message, Lang string
		}{Name: "KILL"}))
		return
	}
	if err != nil {
		_, _ = io.WriteString(s.ch.Stderr(), s.explain(err))
		e.Code = ExitNotRun
	}
	_ = s.ch.CloseWrite()
	_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(e.Code)}))
}
