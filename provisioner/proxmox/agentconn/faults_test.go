package agentconn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// home is where the guest's processes write in these tests.
const home = "/home"

// odd is text that would make the agent deaf if it got into a command line.
const odd = "ünï €…\U0001F600 \xff\xfe 'q' \"d\" $HOME `x` \\ \n%"

func TestNotASCII(t *testing.T) {
	m := boot(t, &pvetest.Server{ArgumentsLast: func() bool { return true }}) // it stays deaf
	c := m.conn(t, "")
	dir := home + "/" + odd
	_, err := c.WriteFile(t.Context(), dir+"/"+odd, strings.NewReader("#!/bin/sh\nprintf %s \"$V|$1|$PWD|\"; cat; printf %s \"$1\" >&2"), guest.WriteOptions{Mode: 0o755})
	check(t, err)
	arg := odd + strings.Repeat("ß", 50_000)
	cmd := guest.Cmd{Args: []string{dir + "/" + odd, arg}, Env: []string{"V=" + odd, "not-a-name=" + odd}, Dir: dir}
	var out, errOut bytes.Buffer
	exit, err := c.Run(t.Context(), cmd, guest.Streams{Stdin: strings.NewReader(odd), Stdout: &out, Stderr: &errOut})
	check(t, err)
	if want := odd + "|" + arg + "|" + dir + "|" + odd; exit.Code != 0 || out.String() != want || errOut.String() != arg {
		t.Errorf("exit %+v, stdout %.300q, stderr %.300q", exit, out.String(), errOut.String())
	}
	p, start, err := c.Processes().Start(t.Context(), cmd, guest.StartOptions{Stdin: []byte(odd), Wait: time.Minute, Max: 1 << 20})
	check(t, err)
	if want := odd + "|" + arg + "|" + dir + "|" + odd; string(start.Stdout.Head) != want || p.Exit.Code != 0 {
		t.Errorf("process %+v, stdout %.300q", p, start.Stdout.Head)
	}
	if _, err := c.Run(t.Context(), guest.Cmd{Args: []string{odd}}, guest.Streams{}); !errors.Is(err, guest.ErrNoCommand) {
		t.Errorf("a missing program gives %v", err)
	}
	if _, _, err := c.ReadFile(t.Context(), home+"/no "+odd, 0, -1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	if got := m.sh(t, c, "echo "+odd[:4]); got != odd[:4]+"\n" {
		t.Errorf("after it %q", got)
	}
}

// dropping loses calls of one name, before or after they took effect: the
// first, the second and the sixth since it was told to.
type dropping struct {
	mu    sync.Mutex
	name  string
	after bool
	calls int
}

func (d *dropping) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = 0
}

func (d *dropping) hook(r *http.Request) *pvetest.Fault {
	if path.Base(r.URL.Path) != d.name {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls++; d.calls != 1 && d.calls != 2 && d.calls != 6 {
		return nil
	}
	return &pvetest.Fault{Drop: true, After: d.after}
}

// Whatever is lost on the way, all is done once and nothing of the output is missing.
func TestLostOnTheWay(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, name := range []string{"exec", "exec-status", "file-read", "file-write"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-after-%v", name, after), func(t *testing.T) {
				d := &dropping{name: name, after: after}
				m := boot(t, &pvetest.Server{Fail: d.hook})
				everythingOnce(t, m, m.conn(t, ""), d.begin)
			})
		}
	}
}

// everythingOnce does what has an effect, and looks whether it had it once.
func everythingOnce(t *testing.T, m *machine, c *agentconn.Conn, begin func()) {
	t.Helper()
	big := bytes.Repeat([]byte("0123456789abcde\n"), 1<<14)
	script := guest.Cmd{Args: []string{"sh", "-c", "echo ran >>ran; cat; echo err >&2; exit 3"}, Dir: home}
	for _, input := range [][]byte{[]byte("little\n"), big} {
		begin()
		var out, errOut bytes.Buffer
		exit, err := c.Run(t.Context(), script, guest.Streams{Stdin: bytes.NewReader(input), Stdout: &out, Stderr: &errOut})
		check(t, err)
		if exit.Code != 3 || !bytes.Equal(out.Bytes(), input) || errOut.String() != "err\n" {
			t.Errorf("exit %+v, %d bytes of output instead of %d, stderr %q", exit, out.Len(), len(input), errOut.String())
		}
		begin()
		p, start, err := c.Processes().Start(t.Context(), script, guest.StartOptions{Stdin: input, Wait: time.Minute, Max: 1 << 20})
		check(t, err)
		if p.Exit.Code != 3 || !bytes.Equal(start.Stdout.Head, input) {
			t.Errorf("process %+v, %d bytes of output instead of %d", p, len(start.Stdout.Head), len(input))
		}
		begin()
		_, err = c.WriteFile(t.Context(), home+"/file", bytes.NewReader(input), guest.WriteOptions{Append: true})
		check(t, err)
	}
	begin()
	r, _, err := c.ReadFile(t.Context(), home+"/file", 0, -1)
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if !bytes.Equal(got, append([]byte("little\n"), big...)) {
		t.Errorf("the file has %d bytes", len(got))
	}
	if ran := m.sh(t, c, "cat "+home+"/ran"); ran != strings.Repeat("ran\n", 4) {
		t.Errorf("4 commands ran: %q", ran)
	}
	list, err := c.Processes().List(t.Context())
	check(t, err)
	if len(list) != 2 {
		t.Errorf("%d processes are known", len(list))
	}
}

// agentPID is how a script finds the guest's agent.
const agentPID = `for f in /proc/[0-9]*; do read -r name <$f/cmdline; case $name in /usr/sbin/qemu-ga*) agent=${f#/proc/} ;; esac; done 2>/dev/null
`

// An agent that dies takes no command with it, and nothing of their output.
func TestAgentDies(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	kill := agentPID + "echo before; kill -KILL $agent; sleep 0.3; echo ran >>" + home + "/ran; echo after; exit 4"
	var out bytes.Buffer
	exit, err := c.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", kill}}, guest.Streams{Stdout: &out})
	check(t, err)
	if exit.Code != 4 || out.String() != "before\nafter\n" {
		t.Errorf("exit %+v, output %q", exit, out.String())
	}
	p, start, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sh", "-c", kill}}, guest.StartOptions{Wait: time.Minute, Max: 100})
	check(t, err)
	if p.Running || p.Exit.Code != 4 || string(start.Stdout.Head) != "before\nafter\n" {
		t.Errorf("process %+v, output %q", p, start.Stdout.Head)
	}
	if ran := m.sh(t, c, "cat "+home+"/ran"); ran != "ran\nran\n" {
		t.Errorf("2 commands ran: %q", ran)
	}
}

// A supervisor that is killed can't tell how its command ended.
func TestSupervisorDies(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "sleep 0.3; kill -KILL $(cat /var/lib/agentlab/r_*/supervisor); sleep 7335"}}, guest.Streams{})
	if !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("Run: %v", err)
	}
	p, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "kill -KILL $(cat /var/lib/agentlab/p_*/supervisor); sleep 7335"}}, guest.StartOptions{Wait: time.Minute})
	check(t, err)
	if p.Running || p.Exit.Signal != "KILL" {
		t.Errorf("process %+v", p)
	}
	if got := m.sh(t, c, "echo fine"); got != "fine\n" {
		t.Errorf("after it %q", got)
	}
}

// hang has the guest's agent hang, and returns what wakes it up.
func (m *machine) hang(t *testing.T, c *agentconn.Conn) (thaw func()) {
	t.Helper()
	_, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sh", "-c", agentPID +
		"until [ -e freeze ]; do sleep 0.02; done; kill -STOP $agent; echo >frozen; until [ -e thaw ]; do sleep 0.02; done; kill -CONT $agent"}, Dir: home}, guest.StartOptions{})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(m.root, "home", "freeze"), nil, 0o600))
	m.awaitFile(t, home+"/frozen")
	return func() { check(t, os.WriteFile(filepath.Join(m.root, "home", "thaw"), nil, 0o600)) }
}

// A hung agent is an error that comes in time; when it wakes up all is well, and
// what was asked meanwhile runs once or never.
func TestAgentHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	thaw := m.hang(t, c)
	ran := guest.Cmd{Args: []string{"sh", "-c", "echo ran >>ran"}, Dir: home}
	_, err := c.Run(t.Context(), ran, guest.Streams{})
	if !errors.Is(err, guest.ErrUnreachable) || !errors.Is(err, pve.AgentNotRunning) {
		t.Errorf("with a hung agent: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _, err = c.Processes().Start(ctx, ran, guest.StartOptions{Wait: time.Hour})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("when its time is over: %v", err)
	}
	thaw()
	if got := m.sh(t, c, "sleep 1; cat "+home+"/ran 2>/dev/null; echo end"); got != "end\n" && got != "ran\nend\n" {
		t.Errorf("after it %q", got)
	}
}

// watch counts agent calls: those made, and the most at once.
type watch struct {
	mu                     sync.Mutex
	begun, now, most, made int
}

func (w *watch) hold(r *http.Request) (done func()) {
	if !strings.Contains(r.URL.Path, "/agent/") {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.made = w.now+1, w.made+1
	w.most = max(w.most, w.now)
	begun := w.begun
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if begun == w.begun {
			w.now--
		}
	}
}

// begin forgets all calls, also one that was given up and is still being held.
func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun++
	w.now, w.made, w.most = 0, 0, 0
}

func (w *watch) seen() (made, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made, w.most
}

// Those who wait for a hung agent take one place of a node and not all, and
// share what is found; who has a deadline is told what kept them.
func TestManyWaitForAHungAgent(t *testing.T) {
	t.Parallel() // it mostly waits
	w := &watch{}
	m := boot(t, &pvetest.Server{Scale: 0.1, Hold: w.hold})
	c := m.conn(t, "")
	thaw := m.hang(t, c)
	run := func(ctx context.Context) error {
		_, err := c.Run(ctx, guest.Cmd{Args: []string{"true"}}, guest.Streams{})
		return err
	}
	if err := run(t.Context()); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("with a hung agent: %v", err)
	}
	w.begin()
	const callers = 20
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := run(t.Context()); !errors.Is(err, guest.ErrUnreachable) {
				t.Errorf("with a hung agent: %v", err)
			}
		})
	}
	all.Wait()
	if made, most := w.seen(); most > 1 || made > 2*callers {
		t.Errorf("%d calls of %d commands, %d at once", made, callers, most)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := run(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, pve.AgentNotRunning) {
		t.Errorf("when its time is over: %v", err)
	}
	thaw()
	if got := m.sh(t, c, "echo fine"); got != "fine\n" {
		t.Errorf("after it %q", got)
	}
}

// Everybody's calls together are two at a time.
func TestLimit(t *testing.T) {
	w := &watch{}
	m := boot(t, &pvetest.Server{Hold: w.hold})
	var all sync.WaitGroup
	for range 2 {
		c := m.conn(t, "")
		for range 5 {
			all.Go(func() {
				if _, err := c.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if _, most := w.seen(); most > 2 {
		t.Errorf("%d agent calls were in flight at once", most)
	}
}

// The mark that ends a stream is no output, also if its end came meanwhile.
func TestMarkIsNoOutput(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	each := func(signal string) string {
		return "for f in /proc/[0-9]*; do read -r name <$f/comm; [ \"$name\" = dd ] && kill -" + signal + " ${f#/proc/}; done 2>/dev/null; "
	}
	script := "echo out; " + each("STOP") + "echo more; (sleep 1; " + each("CONT") + ") >/dev/null 2>&1 &"
	if got := m.sh(t, m.conn(t, ""), script); got != "out\nmore\n" {
		t.Errorf("output %q", got)
	}
}

// What a call left in the guest to be fetched is there until it was, whatever
// others do meanwhile.
func TestOthersWhileFetching(t *testing.T) {
	fetching, goOn := make(chan struct{}), make(chan struct{})
	var first sync.Once
	m := boot(t, &pvetest.Server{Hold: func(r *http.Request) func() {
		if strings.HasSuffix(r.URL.Path, "/agent/file-read") {
			first.Do(func() {
				close(fetching)
				<-goOn
			})
		}
		return func() {}
	}})
	c := m.conn(t, "")
	m.sh(t, c, "head -c 100000 /dev/urandom >/home/big")
	read := make(chan error)
	go func() {
		r, _, err := c.ReadFile(t.Context(), "/home/big", 0, -1)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		read <- err
	}()
	<-fetching
	m.sh(t, c, "true")
	close(goOn)
	check(t, <-read)
}
