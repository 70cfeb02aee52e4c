package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/term"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

// screen joins the streams of this program to a command's.
type screen struct {
	in        io.Reader
	out, errs io.Writer
	to        *terminal.Client
	tty       *os.File    // nil if we have none
	left      atomic.Bool // by ~.
}

// show runs a command to its end. Leave is called on ~., and breaks it off.
func (s *screen) show(req terminal.Request, leave func()) (code int, err error) {
	restore, err := s.take(&req, leave)
	if err != nil {
		return 0, err
	}
	defer restore() // also from a panic
	if err := s.to.Start(req); err != nil {
		return 0, err
	}
	if s.tty != nil {
		defer s.follow()()
	}
	exit, err := s.to.Run(s.in, s.out, s.errs)
	return exit.Code, err
}

// take makes our terminal, if there is one, that of the command: it handles no key
// itself any more, until restore.
func (s *screen) take(req *terminal.Request, leave func()) (restore func(), err error) {
	in, ok := s.in.(*os.File)
	if !ok || !isTerminal(s.in) || !isTerminal(s.out) {
		return func() {}, nil
	}
	cols, rows, err := term.GetSize(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("size of the terminal: %w", err)
	}
	req.TTY = &terminal.TTY{Term: cmp.Or(os.Getenv("TERM"), "xterm"), Size: terminal.Size{Cols: uint16(cols), Rows: uint16(rows)}}
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("take the terminal: %w", err)
	}
	s.tty = in
	s.in = &typed{in: in, leave: func() { s.left.Store(true); leave() }}
	return func() { _ = term.Restore(int(in.Fd()), was) }, nil
}

// follow passes on changes of the terminal's size, until it is stopped.
func (s *screen) follow() (stop func()) {
	changed := make(chan os.Signal, 1)
	changed <- syscall.SIGWINCH // which may have come before we listen
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for range changed {
			if cols, rows, err := term.GetSize(int(s.tty.Fd())); err == nil {
				_ = s.to.Resize(terminal.Size{Cols: uint16(cols), Rows: uint16(rows)}) // fails with the connection
			}
		}
	}()
	return func() { signal.Stop(changed) }
}

// typed is what is typed and not meant for this program.
type typed struct {
	in    io.Reader
	esc   escape
	leave func()
}

// Read is part of io.Reader. It returns nothing for an escape that is not complete.
func (t *typed) Read(b []byte) (int, error) {
	part := make([]byte, max(1, len(b)/2)) // an escape may make it one longer
	n, err := t.in.Read(part)
	keys, leave := t.esc.pass(part[:n])
	if leave {
		t.leave()
		return 0, io.EOF
	}
	return copy(b, keys), err
}

// escape finds ~. at the beginning of a line.
type escape struct {
	within, tilde bool // a line; after its first ~
}

// pass returns what of the keys is the command's.
func (e *escape) pass(keys []byte) (pass []byte, leave bool) {
	pass = make([]byte, 0, len(keys)+1)
	for _, k := range keys {
		switch {
		case e.tilde && k == '.':
			return nil, true
		case e.tilde:
			e.tilde = false
			if pass = append(pass, '~'); k == '~' {
				e.within = true
				continue
			}
		case !e.within && k == '~':
			e.tilde = true
			continue
		}
		pass = append(pass, k)
		e.within = k != '\r' && k != '\n'
	}
	return pass, false
}
