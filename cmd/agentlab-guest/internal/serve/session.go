package serve

import (
	"errors"
	"io"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// serveSession serves a channel of the standard type (RFC 4254, section 6).
func (s *Server) serveSession(ch ssh.Channel, requests <-chan *ssh.Request) {
	x := &session{Server: s, ch: ch, ended: make(chan struct{})}
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				if x.proc != nil {
					kill(x.proc)
				}
				return
			}
			ok = x.request(r)
			if r.WantReply {
				_ = r.Reply(ok, nil) // fails with the connection
			}
			if ok && x.start != nil { // the reply first: a client may wait for it before it reads
				go x.start()
				x.start = nil
			}
		case <-x.ended:
			go ssh.DiscardRequests(requests)
			return
		}
	}
}

// session is the state of one standard session.
type session struct {
	*Server
	ch    ssh.Channel
	cmd   proc.Cmd
	proc  *proc.Proc
	start func()
	busy  bool          // a program was started: there is no second
	ended chan struct{} // closed when it has ended
}

// request answers one request; the fields are those of RFC 4254.
func (s *session) request(r *ssh.Request) bool {
	switch r.Type {
	case "env":
		var env struct{ Name, Value string }
		if ssh.Unmarshal(r.Payload, &env) != nil {
			return false
		}
		s.cmd.Env = append(s.cmd.Env, env.Name+"="+env.Value)
		return true
	case "pty-req":
		var tty struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}
		if ssh.Unmarshal(r.Payload, &tty) != nil {
			return false
		}
		s.cmd.TTY, s.cmd.Term = true, tty.Term
		s.cmd.Size = guest.Size{Cols: uint16(tty.Cols), Rows: uint16(tty.Rows)}
		return true
	case "window-change":
		var size struct{ Cols, Rows, Width, Height uint32 }
		return ssh.Unmarshal(r.Payload, &size) == nil && s.proc != nil && s.proc.TTY &&
			s.proc.Resize(guest.Size{Cols: uint16(size.Cols), Rows: uint16(size.Rows)}) == nil
	case "signal":
		var sig struct{ Name string }
		return ssh.Unmarshal(r.Payload, &sig) == nil && s.proc != nil &&
			s.proc.Signal(proc.SignalNamed(sig.Name)) == nil
	case "shell", "exec", "subsystem":
		return s.program(r)
	}
	return false
}

// program starts what the session is for.
func (s *session) program(r *ssh.Request) bool {
	var what struct{ Text string }
	if s.busy || r.Type != "shell" && ssh.Unmarshal(r.Payload, &what) != nil {
		return false
	}
	s.busy = true
	shell := s.Host.Shell("")
	switch {
	case r.Type == "subsystem" && what.Text == "sftp":
		s.start = s.sftp
		return true
	case r.Type == "subsystem":
		return false
	case r.Type == "shell":
		s.cmd.Args = []string{shell}
		if s.cmd.TTY {
			s.cmd.Args = []string{shell, "-l"}
		}
	default:
		s.cmd.Args = []string{shell, "-c", what.Text}
	}
	s.cmd.Stdin = true
	p, err := s.Host.Start(s.cmd)
	if err != nil {
		s.start = func() {
			_, _ = io.WriteString(s.ch.Stderr(), "agentlab-guest: "+err.Error()+"\r\n")
			s.exit(guest.Exit{Code: 127})
		}
		return true
	}
	s.proc = p
	s.start = func() {
		go func() {
			_, _ = io.Copy(p.Stdin, s.ch) // either end may close when it likes
			endInput(p)
		}()
		s.exit(relay(p, s.ch, s.ch.Stderr()))
	}
	return true
}

// exit sends how the program ended.
func (s *session) exit(e guest.Exit) {
	defer close(s.ended)
	_ = s.ch.CloseWrite()
	if e.Signal != "" {
		_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal  string
			Core    bool
			Message string
			Lang    string
		}{Signal: strings.TrimPrefix(e.Signal, "SIG")}))
		return
	}
	_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(e.Code)}))
}

// sftp serves the file transfer of a standard client.
func (s *session) sftp() {
	code := 0
	server, err := sftp.NewServer(s.ch, sftp.WithServerWorkingDirectory(s.Files.Home))
	if err == nil {
		err = server.Serve()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		code = 1
	}
	s.exit(guest.Exit{Code: code})
}
