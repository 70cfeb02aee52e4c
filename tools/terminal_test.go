package tools

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

func TestTerminalPrograms(t *testing.T) {
	for _, tt := range []struct {
		req  terminal.Request
		want string // the first words of the first program, or the error
		last string // the first of the last
	}{
		{terminal.Request{}, "zsh -l", "zsh"},
		{terminal.Request{Command: "ls -l"}, "zsh -lc ls -l", "zsh"},
		{terminal.Request{Service: &terminal.Service{}}, "", ""},
		{terminal.Request{Service: &terminal.Service{Files: true}}, "agentlab-guest sftp /home", "sh"},
		{terminal.Request{Service: &terminal.Service{Port: 65535}}, "agentlab-guest port 65535", "bash"},
		{terminal.Request{Service: &terminal.Service{Port: 65536}}, "port: got 65536, want 1 to 65535", ""},
		{terminal.Request{Service: &terminal.Service{Port: -1}}, "port: got -1, want 1 to 65535", ""},
		{terminal.Request{Service: &terminal.Service{Port: 1, Files: true}}, "service: want one alone", ""},
		{terminal.Request{Service: &terminal.Service{Port: 1}, Command: "ls"}, "service: want one alone", ""},
		{terminal.Request{Service: &terminal.Service{Files: true}, TTY: &terminal.TTY{}}, "service: want one alone", ""},
	} {
		programs, err := terminalPrograms([]string{"zsh", "-lc"}, "/home", tt.req)
		first, last := "", ""
		if len(programs) > 0 {
			first, last = strings.Join(programs[0], " "), programs[len(programs)-1][0]
		}
		if err != nil {
			first = err.Error()
		}
		if !strings.HasPrefix(first, tt.want) || tt.want == "" && first != "" || last != tt.last {
			t.Errorf("%+v: got %q, last %q; want %q, %q", tt.req, first, last, tt.want, tt.last)
		}
	}
}

// What is kept of a request is what it is for, and no value of a variable.
func TestRecordTerminal(t *testing.T) {
	for _, tt := range []struct {
		req  terminal.Request
		want string
	}{
		{terminal.Request{Command: "ls", TTY: &terminal.TTY{}, User: "bob"}, `{"command":"ls","tty":true,"user":"bob"}`},
		{terminal.Request{Service: &terminal.Service{Port: 80}}, `{"service":{"port":80}}`},
		{terminal.Request{Command: "env", Env: map[string]string{"LANG": "secret"}}, `{"command":"env","env":{"bytes":{"LANG":6}},"tty":false}`},
	} {
		tt.req.Sandbox = "sb-1"
		if sandbox, got := RecordTerminal(tt.req); sandbox != "sb-1" || got != tt.want {
			t.Errorf("%+v: recorded %s of %s, want %s", tt.req, got, sandbox, tt.want)
		}
	}
}

// guestOf is a guest with another Run.
type guestOf struct {
	guest.Conn
	run func(program string, in io.Reader) error
}

func (g guestOf) Run(_ context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	return guest.Exit{}, g.run(cmd.Args[0], std.Stdin)
}

// Of several programs one reads the input, whatever a guest says.
func TestOneReadsInput(t *testing.T) {
	for _, first := range []bool{true, false} {
		ran, readers := "", []io.Reader{}
		_, err := runFirst(t.Context(), guestOf{run: func(program string, in io.Reader) error {
			ran, readers = ran+program, append(readers, in)
			if program == "b" {
				return nil
			}
			if first {
				_, _ = in.Read(make([]byte, 1))
			}
			return guest.ErrNoCommand
		}}, guest.Cmd{}, [][]string{{"a"}, {"b"}}, guest.Streams{Stdin: strings.NewReader("input")})
		if first {
			if ran != "a" || !errors.Is(err, guest.ErrNoCommand) {
				t.Errorf("after one that has read: ran %s, %v", ran, err)
			}
			continue
		}
		late, _ := io.ReadAll(readers[0])
		got, _ := io.ReadAll(readers[len(readers)-1])
		if ran != "ab" || err != nil || len(late) > 0 || string(got) != "input" {
			t.Errorf("ran %s, %v; the first read %q, the last %q", ran, err, late, got)
		}
	}
}

// What is missing in a sandbox is named.
func TestLacking(t *testing.T) {
	for _, tt := range []struct {
		req  terminal.Request
		err  error
		want string
	}{
		{terminal.Request{Service: &terminal.Service{Port: 80}}, guest.ErrNoCommand, "ports of this sandbox need bash or agentlab-guest in it"},
		{terminal.Request{Service: &terminal.Service{Port: 80}, User: "bob"}, guest.ErrNoBecome, "needs setpriv"},
		{terminal.Request{TTY: &terminal.TTY{}, User: "bob"}, guest.ErrNoBecome, "needs setpriv"},
		{terminal.Request{TTY: &terminal.TTY{}}, guest.ErrNoCommand, "can't have a terminal"},
		{terminal.Request{Command: "ls"}, guest.ErrNoCommand, "the shell of this profile"},
	} {
		if _, text := explain(lacking(tt.req, tt.err)); !strings.Contains(text, tt.want) {
			t.Errorf("%+v: got %s, want %s", tt.req, text, tt.want)
		}
	}
}

// The program of an image for a port reaches both loopbacks, and ends after its input
// although the service does not.
func TestImagePort(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		said, done := make(chan string), make(chan struct{})
		defer close(done)
		go func() {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			_, _ = io.WriteString(nc, "hello")
			b := make([]byte, len("input"))
			_, _ = io.ReadFull(nc, b)
			said <- string(b)
			<-done
		}()
		cmd := exec.CommandContext(t.Context(), "bash", "-c", imagePort, strconv.Itoa(l.Addr().(*net.TCPAddr).Port), "0")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := make(chan string, 1)
		go func() {
			b, err := cmd.Output()
			out <- string(b)
			if err != nil {
				t.Error(err)
			}
		}()
		_, _ = io.WriteString(in, "input")
		if got := <-said; got != "input" {
			t.Errorf("%s: the service got %q", address, got)
		}
		_ = in.Close()
		if got := <-out; !strings.HasPrefix(got, "\n") {
			t.Errorf("%s: got %q", address, got)
		}
	}
}
