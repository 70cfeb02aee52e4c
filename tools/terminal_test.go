package tools

import (
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
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
