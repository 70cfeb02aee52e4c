package agentconn_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// liar is a guest whose agent runs nothing, and says what it likes of scripts
// and files. The guest's root can make any agent one.
type liar struct {
	says func(script string, args []string) string // what a script printed
	file string                                    // what every file holds
	done chan struct{}
	out  string
}

func (l *liar) Powerdown()            {}
func (l *liar) Kill()                 { close(l.done) }
func (l *liar) Done() <-chan struct{} { return l.done }

func (l *liar) Agent(context.Context) (net.Conn, error) {
	host, agent := net.Pipe()
	go func() {
		in := bufio.NewReader(agent)
		dec, enc := json.NewDecoder(in), json.NewEncoder(agent)
		for {
			var cmd struct {
				Execute   string
				Arguments struct {
					Arg []string
					ID  int
				}
			}
			if err := dec.Decode(&cmd); err != nil {
				return
			}
			if err := enc.Encode(map[string]any{"return": l.answer(cmd.Execute, cmd.Arguments.ID, cmd.Arguments.Arg)}); err != nil {
				return
			}
		}
	}()
	return host, nil
}

func (l *liar) answer(execute string, id int, args []string) any {
	switch execute {
	case "guest-sync":
		return id
	case "guest-exec":
		l.out = l.says(strings.TrimPrefix(args[2], "agentlab-"), args[5:])
		return map[string]any{"pid": 1}
	case "guest-exec-status":
		return map[string]any{"exited": true, "exitcode": 0, "out-data": base64.StdEncoding.EncodeToString([]byte(l.out))}
	case "guest-file-open":
		return 7
	case "guest-file-read":
		return map[string]any{"count": len(l.file), "buf-b64": base64.StdEncoding.EncodeToString([]byte(l.file)), "eof": true}
	}
	return map[string]any{}
}

// lied is a channel to a guest that lies so.
func lied(t *testing.T, l *liar) *agentconn.Conn {
	t.Helper()
	l.done = make(chan struct{})
	srv := &pvetest.Server{}
	m := booted(t, srv, func(pvetest.GuestSpec) (pvetest.Guest, error) { return l, nil })
	return m.conn(t, "")
}

// always says the same of every script.
func always(out string) *liar { return &liar{says: func(string, []string) string { return out }} }

// What no guest of ours would say is an error, and not taken for anything else.
func TestLies(t *testing.T) {
	run := func(c *agentconn.Conn) error {
		_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{Stdout: io.Discard})
		return err
	}
	start := func(c *agentconn.Conn) error {
		_, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.StartOptions{Wait: time.Minute, Max: 100})
		return err
	}
	look := func(c *agentconn.Conn) error {
		_, _, err := c.Processes().Read(t.Context(), "p_1", guest.ReadRequest{Max: 100})
		return err
	}
	search := func(c *agentconn.Conn) error {
		_, _, err := c.Processes().Read(t.Context(), "p_1", guest.ReadRequest{Max: 100, Until: "never", Wait: time.Hour})
		return err
	}
	list := func(c *agentconn.Conn) error { _, err := c.Processes().List(t.Context()); return err }
	read := func(c *agentconn.Conn) error {
		r, _, err := c.ReadFile(t.Context(), "/f", 0, 100)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	files := func(c *agentconn.Conn) error {
		_, err := c.ListFiles(t.Context(), "/d", guest.ListOptions{})
		return err
	}
	write := func(c *agentconn.Conn) error {
		_, err := c.WriteFile(t.Context(), "/f", strings.NewReader("x"), guest.WriteOptions{})
		return err
	}
	stat := " 0 0 81a4 100 2020-01-02 03:04:05.000000000 +0000 0 0 1:2\n"
	for name, tt := range map[string]struct {
		call func(*agentconn.Conn) error
		liar *liar
	}{
		"nothing_said_of_a_command":   {run, always("")},
		"much_said_of_a_command":      {run, always("ended=1 start=ok code=0 whole=1 " + strings.Repeat("x=1 ", 1<<20) + "\n")},
		"command_without_end":         {run, always("ended=0\n")},
		"output_of_negative_length":   {run, always("ended=1 whole=1 outn=-5 start=ok code=0\nabc")},
		"nothing_said_of_a_process":   {start, always("")},
		"process_of_another_name":     {start, always("ended=1 id=../x start=ok code=0 whole=1 outn=0\n")},
		"another_process":             {look, always("id=p_2 ended=1 start=ok code=0\n")},
		"more_of_a_log_than_asked":    {look, always("id=p_1 ended=1 start=ok code=0 total=900 n=900\n" + strings.Repeat("x", 900))},
		"less_of_a_log_than_promised": {look, always("id=p_1 ended=1 start=ok code=0 total=90 n=90\nxxx")},
		"log_that_begins_anew":        {search, always("id=p_1 start=ok offset=0 total=9 n=3\nxxx")},
		"listed_without_names":        {list, always("id=p_1/.. ended=1\n")},
		"endless_list":                {list, always(strings.Repeat("id=p_1 ended=1\n", 10_000))},
		"endless_line":                {list, always("id=p_1 ended=1 " + strings.Repeat("x=1 ", 1<<20) + "\n")},
		"more_of_a_file_than_asked":   {read, always("101" + stat + strings.Repeat("x", 101))},
		"less_of_a_file_than_none":    {read, always("-1" + stat)},
		"file_of_no_size":             {read, always("x" + stat)},
		"spoilt_piece":                {read, &liar{says: func(string, []string) string { return "100 5" + stat }, file: "no gzip"}},
		"file_not_asked_for": {files, &liar{says: func(script string, args []string) string {
			if script == "find" {
				return "n=4\n./a\x00"
			}
			return "81a4 1 2020-01-02 03:04:05.0 +0000 0 0\n/etc/passwd" + args[2] + args[2]
		}}},
		"file_described_twice": {files, &liar{says: func(script string, args []string) string {
			if script == "find" {
				return "n=4\n./a\x00"
			}
			return strings.Repeat("81a4 1 2020-01-02 03:04:05.0 +0000 0 0\n/d/a"+args[2]+args[2], 2)
		}}},
		"nothing_said_of_a_write": {write, always("")},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.call(lied(t, tt.liar))
			switch {
			case name == "output_of_negative_length": // it has none then
				check(t, err)
			case !errors.Is(err, guest.ErrUnreachable):
				t.Errorf("error %v", err)
			case len(err.Error()) > 1000:
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// Numbers that make no sense do no harm where they are passed on.
func TestAbsurdTimes(t *testing.T) {
	const max = "9223372036854775807"
	c := lied(t, always("id=p_1 ended=1 start=ok code=300 sig=0 started="+max+" duration="+max+" now=0 begun="+max+
		" out="+max+" total="+max+" command="+strings.Repeat("QUFB", 500)+"\n"))
	p, _, err := c.Processes().Read(t.Context(), "p_1", guest.ReadRequest{Max: 100})
	check(t, err)
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
	if p.Duration < 0 || len(p.Command) > 200 || p.Exit.Code > 255 {
		t.Errorf("process %+v", p)
	}
}

// A read ends when its time is over, whatever the guest says is still to come.
func TestEndlessLog(t *testing.T) {
	for name, l := range map[string]*liar{
		"of_nothing": {says: func(string, []string) string { return "id=p_1 ended=0 start=ok total=1152921504606846976 n=0\n" }},
		"of_much": {
			says: func(_ string, args []string) string {
				return fmt.Sprintf("id=p_1 ended=0 start=ok total=1152921504606846976 offset=%s n=1000000\n", args[2])
			},
			file: strings.Repeat("x", 1_000_000),
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := lied(t, l).Processes().Read(t.Context(), "p_1", guest.ReadRequest{Max: 100, Until: "never"})
			check(t, err)
		})
	}
}

// A command that does not begin is given up.
func TestNeverBegins(t *testing.T) {
	c := lied(t, &liar{says: func(script string, _ []string) string {
		if script == "supervise" {
			return "again=1\n"
		}
		return "id=p_1 ended=0 start=\n"
	}})
	c.SetBeginTime(100 * time.Millisecond)
	_, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.StartOptions{})
	if !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
}
