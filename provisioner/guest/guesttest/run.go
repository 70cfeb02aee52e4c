package guesttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

func testExit(t *testing.T, h Harness) {
	for _, tt := range []struct {
		name, script string
		want         guest.Exit
	}{
		{"zero", "exit 0", guest.Exit{}},
		{"seven", "exit 7", guest.Exit{Code: 7}},
		{"255", "exit 255", guest.Exit{Code: 255}},
		{"term", "kill -TERM $$", guest.Exit{Code: 143, Signal: "TERM"}},
		{"kill", "kill -KILL $$", guest.Exit{Code: 137, Signal: "KILL"}},
		{"child_killed", "sh -c 'kill -KILL $$'; exit $?", guest.Exit{Code: 137}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := h.Conn.Run(within(t), h.script(tt.script), guest.Streams{})
			check(t, err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("exit (-want +got):\n%s", diff)
			}
		})
	}
}

func testStreams(t *testing.T, h Harness) {
	var out, errOut bytes.Buffer
	_, err := h.Conn.Run(within(t), h.script("echo out; echo err >&2; echo out2"), guest.Streams{Stdout: &out, Stderr: &errOut})
	check(t, err)
	if out.String() != "out\nout2\n" || errOut.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
}

func testEnvironment(t *testing.T, h Harness) {
	value := "it's \"quoted\"\nand $HOME `x` \xff\xfe"
	var out bytes.Buffer
	cmd := guest.Cmd{
		Args: []string{"sh", "-c", `printf %s "$V|$1|$HOME|$PATH"`, "sh", value},
		Env:  []string{"V=" + value, "HOME=first", "HOME=/elsewhere"}, Dir: h.Dir,
	}
	_, err := h.Conn.Run(within(t), cmd, guest.Streams{Stdout: &out})
	check(t, err)
	got := strings.SplitN(out.String(), "|", 4)
	if len(got) != 4 || got[0] != value || got[1] != value || got[2] != "/elsewhere" || !strings.Contains(got[3], "/bin") {
		t.Errorf("got %q", got)
	}
	if pwd := h.sh(t, "pwd"); pwd != h.Dir+"\n" {
		t.Errorf("working directory %q, want %q", pwd, h.Dir)
	}
}

func testNoStart(t *testing.T, h Harness) {
	h.sh(t, "echo 'echo hi' >plain; mkdir dir")
	for _, tt := range []struct {
		name string
		cmd  guest.Cmd
		want error
		text string
	}{
		{"missing_dir", guest.Cmd{Args: []string{"true"}, Dir: h.Dir + "/none"}, guest.ErrNoDir, "none"},
		{"dir_is_file", guest.Cmd{Args: []string{"true"}, Dir: h.Dir + "/plain"}, guest.ErrNoDir, "plain"},
		{"no_command", guest.Cmd{Args: []string{"no-such-program"}}, guest.ErrNoCommand, "no-such-program"},
		{"no_path", guest.Cmd{Args: []string{"./none"}, Dir: h.Dir}, guest.ErrNoCommand, "./none"},
		{"not_executable", guest.Cmd{Args: []string{h.Dir + "/plain"}}, guest.ErrNoCommand, "permission denied"},
		{"directory", guest.Cmd{Args: []string{h.Dir + "/dir"}}, guest.ErrNoCommand, "dir"},
		{"empty", guest.Cmd{}, guest.ErrNoCommand, ""},
		{"no_user", guest.Cmd{Args: []string{"true"}, User: "nobody-here"}, guest.ErrNoUser, "nobody-here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := h.Conn.Run(within(t), tt.cmd, guest.Streams{})
			wantErr(t, err, tt.want)
			_, _, startErr := h.Conn.Processes().Start(within(t), tt.cmd, guest.StartOptions{})
			wantErr(t, startErr, tt.want)
			if err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not name %q", err, tt.text)
			}
		})
	}
}

// Where there is no agentlab-guest, that is said before any input is lost.
func testOwnProgram(t *testing.T, h Harness) {
	var errOut bytes.Buffer
	in := &noted{}
	exit, err := h.Conn.Run(within(t), guest.Cmd{Args: []string{guest.Program, "port", "none"}}, guest.Streams{Stdin: in, Stderr: &errOut})
	if h.Own || err == nil {
		check(t, err)
		if exit.Code != 1 || !strings.Contains(errOut.String(), `port \"none\"`) {
			t.Errorf("exit %+v, stderr %q", exit, errOut.String())
		}
		return
	}
	wantErr(t, err, guest.ErrNoCommand)
	if in.read.Load() {
		t.Error("input was read")
	}
}

// noted is input that knows whether it was read.
type noted struct{ read atomic.Bool }

func (n *noted) Read([]byte) (int, error) {
	n.read.Store(true)
	return 0, io.EOF
}

func testStdin(t *testing.T, h Harness) {
	in := make([]byte, 5<<20)
	_, _ = rand.Read(in) // never fails
	var out bytes.Buffer
	exit, err := h.Conn.Run(within(t), guest.Cmd{Args: []string{"cat"}}, guest.Streams{Stdin: bytes.NewReader(in), Stdout: &out})
	check(t, err)
	if exit.Code != 0 || !bytes.Equal(in, out.Bytes()) {
		t.Errorf("cat: exit %+v, %d of %d bytes came back the same", exit, out.Len(), len(in))
	}
	// A command that doesn't read its input ends all the same.
	_, err = h.Conn.Run(within(t), guest.Cmd{Args: []string{"true"}}, guest.Streams{Stdin: bytes.NewReader(in)})
	check(t, err)
	boom := errors.New("boom")
	_, err = h.Conn.Run(within(t), guest.Cmd{Args: []string{"cat"}}, guest.Streams{Stdin: io.MultiReader(strings.NewReader("x"), failing{boom})})
	wantErr(t, err, boom)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A child in the background that holds the output open must not hold up the end.
func testBackground(t *testing.T, h Harness) {
	var out bytes.Buffer
	exit, err := h.Conn.Run(within(t), h.script("sleep 7331 & echo $! >pid; echo started"), guest.Streams{Stdout: &out})
	check(t, err)
	if exit.Code != 0 || out.String() != "started\n" {
		t.Errorf("exit %+v, output %q", exit, out.String())
	}
	h.sh(t, "kill $(cat pid)") // it was left alone
	h.awaitGone(t, "sleep 7331")
}

// counting counts bytes and checks that they are what yes writes.
type counting struct {
	n   int64
	bad bool
}

func (c *counting) Write(b []byte) (int, error) {
	for i, x := range b {
		if want := "y\n"[(c.n+int64(i))%2]; x != want {
			c.bad = true
		}
	}
	c.n += int64(len(b))
	return len(b), nil
}

const mega = 1 << 20

// heap returns what is in use on our heap.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

func testMuchOutput(t *testing.T, h Harness) {
	const size = 100_000_000
	h.sh(t, "true") // connected
	before := heap()
	var out counting
	exit, err := h.Conn.Run(within(t), h.script(fmt.Sprintf("yes | head -c %d", size)), guest.Streams{Stdout: &out})
	check(t, err)
	if out.n != size || out.bad || exit.Code != 0 {
		t.Errorf("got %d bytes, wrong %v, exit %+v", out.n, out.bad, exit)
	}
	if grown := heap() - before; grown > 8*mega {
		t.Errorf("our heap grew by %d bytes", grown)
	}
	if kb := h.resident(t); kb > 24<<10 {
		t.Errorf("the guest's server takes %d kB", kb)
	}
}

// stalling blocks in its second Write until released.
type stalling struct {
	stalled, release chan struct{}
	n                int
}

func (s *stalling) Write(b []byte) (int, error) {
	if s.n++; s.n == 2 {
		close(s.stalled)
		<-s.release
	}
	return len(b), nil
}

func testStalledReader(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	h.sh(t, "true")
	before := heap()
	w := &stalling{stalled: make(chan struct{}), release: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Conn.Run(ctx, h.script("yes mark-4711"), guest.Streams{Stdout: w})
		ended <- err
	}()
	<-w.stalled
	// The command waits once all on the way is full: its CPU time stands still.
	h.sh(t, `while :; do for p in /proc/[0-9]*; do grep -qa '[m]ark-4711' $p/cmdline 2>/dev/null && s=$(cut -d' ' -f14,15 $p/stat); done
		[ "$s" = "$last" ] && break; last=$s; sleep 0.1; done`)
	if grown := heap() - before; grown > 16*mega {
		t.Errorf("our heap grew by %d bytes while a writer stalls", grown)
	}
	if kb := h.resident(t); kb > 24<<10 {
		t.Errorf("the guest's server takes %d kB while a writer stalls", kb)
	}
	if out := h.sh(t, "echo others go on"); out != "others go on\n" {
		t.Errorf("another command gives %q", out)
	}
	cancel()
	close(w.release)
	wantErr(t, <-ended, context.Canceled)
	h.awaitGone(t, "mark-4711")
}

func testFailingWriter(t *testing.T, h Harness) {
	boom := errors.New("boom")
	_, err := h.Conn.Run(within(t), h.script("yes mark-4712"), guest.Streams{Stdout: failing{boom}})
	wantErr(t, err, boom)
	h.awaitGone(t, "mark-4712")
}

// stubborn leaves children of all kinds: one that ignores TERM, one in a
// session of its own, and, orphaned, one in another.
const stubborn = `
sh -c 'trap "" TERM; while :; do sleep 0.1; done' stubborn-815 &
setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done' stubborn-815 &
(setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done' stubborn-815 &)
echo up >up
trap "" TERM
wait; while :; do sleep 0.1; done; : stubborn-815`

func testCancelKillsAll(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := h.Conn.Run(ctx, h.script(stubborn), guest.Streams{})
		ended <- err
	}()
	h.awaitFile(t, "up")
	cancel()
	wantErr(t, <-ended, context.Canceled)
	h.awaitGone(t, "stubborn-815")
}

func testBrokenConnectionKills(t *testing.T, h Harness) {
	if h.Break == nil {
		return
	}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Conn.Run(within(t), h.script(stubborn+"; echo ran >>ran"), guest.Streams{})
		ended <- err
	}()
	h.awaitFile(t, "up")
	h.Break()
	wantErr(t, <-ended, guest.ErrUnreachable)
	h.awaitGone(t, "stubborn-815") // over a new connection
}

func testManyAtOnce(t *testing.T, h Harness) {
	ctx := within(t)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			var out bytes.Buffer
			exit, err := h.Conn.Run(ctx, h.script(fmt.Sprintf("echo %d; exit %d", i, i%250)), guest.Streams{Stdout: &out})
			if err != nil || exit.Code != i%250 || out.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("run %d: exit %+v, output %q, error %v", i, exit, out.String(), err)
			}
		})
	}
	all.Wait()
}

func testTerminal(t *testing.T, h Harness) {
	if h.NoTTY != "" {
		_, err := h.Conn.Run(within(t), h.script("echo ran >ran"), guest.Streams{TTY: &guest.TTY{Term: "vt100", Cols: 80, Rows: 24}})
		wantErr(t, err, guest.ErrNoCommand)
		if err != nil && !strings.Contains(err.Error(), h.NoTTY) {
			t.Errorf("error %q does not name %s", err, h.NoTTY)
		}
		h.sh(t, "! [ -e ran ]")
		return
	}
	resize := make(chan guest.Size)
	in, feed := io.Pipe()
	out := &gathered{changed: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Conn.Run(within(t), h.script(`test -t 0 && test -t 2 && echo $TERM >&2; stty size; read go; until stty size | grep "50 100"; do sleep 0.1; done`),
			guest.Streams{Stdin: in, Stdout: out, TTY: &guest.TTY{Term: "vt100", Cols: 80, Rows: 24, Resize: resize}})
		ended <- err
	}()
	out.await(t, "vt100\r\n24 80")
	resize <- guest.Size{Cols: 100, Rows: 50} // which input may overtake
	_, err := io.WriteString(feed, "go\n")
	check(t, err)
	check(t, <-ended)
	out.await(t, "50 100")
}

// gathered is output that a test waits for.
type gathered struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func (g *gathered) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
	return g.buf.Write(b)
}

func (g *gathered) await(t *testing.T, text string) {
	t.Helper()
	ctx := within(t)
	for {
		g.mu.Lock()
		got := g.buf.String()
		g.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-g.changed:
		case <-ctx.Done():
			t.Fatalf("output %q never had %q", got, text)
		}
	}
}
