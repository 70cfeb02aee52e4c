package guesttest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// long is a wait that no test lives to see the end of.
const long = 10 * time.Minute

// background starts a script without waiting.
func (h Harness) background(t *testing.T, script string, opt guest.StartOptions) guest.Process {
	t.Helper()
	p, _, err := h.Conn.Processes().Start(within(t), h.script(script), opt)
	check(t, err)
	return p
}

// read reads a process to its end.
func (h Harness) read(t *testing.T, id string, req guest.ReadRequest) (guest.Process, guest.Output) {
	t.Helper()
	p, out, err := h.Conn.Processes().Read(within(t), id, req)
	check(t, err)
	return p, out
}

// ended waits for the end of a process.
func (h Harness) ended(t *testing.T, id string) guest.Process {
	t.Helper()
	p, _ := h.read(t, id, guest.ReadRequest{Wait: long, Until: `\A\z.`}) // matches never
	if p.Running {
		t.Fatalf("%s still runs", id)
	}
	return p
}

func testStart(t *testing.T, h Harness) {
	p, out, err := h.Conn.Processes().Start(within(t), h.script("cat; echo err >&2; exit 3"),
		guest.StartOptions{Stdin: []byte("in\xff\n"), Wait: long, Max: 1000})
	check(t, err)
	if p.Running || p.Exit != (guest.Exit{Code: 3}) || p.Stdout != 4 || p.Stderr != 4 || !strings.HasPrefix(p.ID, "p_") || p.LogPath != "" {
		t.Errorf("process %+v", p)
	}
	want := guest.Output{
		Stdout: guest.Clip{Head: []byte("in\xff\n"), Total: 4},
		Stderr: guest.Clip{Head: []byte("err\n"), Total: 4},
		Next:   8,
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	list, err := h.Conn.Processes().List(within(t))
	check(t, err)
	list = slices.DeleteFunc(list, func(other guest.Process) bool { return other.ID != p.ID }) // those of tests before
	if len(list) != 1 || list[0].Duration != p.Duration {
		t.Errorf("list %+v", list)
	}
	if _, again := h.read(t, p.ID, guest.ReadRequest{Max: 100}); len(again.Both) != 8 {
		t.Errorf("after its end %q is read", again.Both)
	}
	_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{Signal: "TERM"})
	wantErr(t, err, guest.ErrExited)
	_, _, err = h.Conn.Processes().Read(within(t), "p_999", guest.ReadRequest{})
	wantErr(t, err, guest.ErrNoProcess)
}

func testStartClips(t *testing.T, h Harness) {
	for _, tt := range []struct {
		max        int
		head, tail string
	}{
		{0, "", ""}, {1, "", "9"}, {4, "01", "89"}, {9, "0123", "56789"}, {10, "0123456789", ""}, {99, "0123456789", ""},
	} {
		t.Run(fmt.Sprint(tt.max), func(t *testing.T) {
			_, out, err := h.Conn.Processes().Start(within(t), h.script("for i in 0 1 2 3 4 5 6 7 8 9; do printf $i; done"),
				guest.StartOptions{Wait: long, Max: tt.max})
			check(t, err)
			c := out.Stdout
			if string(c.Head) != tt.head || string(c.Tail) != tt.tail || c.Total != 10 {
				t.Errorf("head %q, tail %q, total %d", c.Head, c.Tail, c.Total)
			}
		})
	}
}

func testStartCancel(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, _, err := h.Conn.Processes().Start(ctx, h.script(stubborn), guest.StartOptions{Wait: long})
		ended <- err
	}()
	h.awaitFile(t, "up")
	cancel()
	wantErr(t, <-ended, context.Canceled)
	h.awaitGone(t, "stubborn-815")
}

func testTimeout(t *testing.T, h Harness) {
	p, _, err := h.Conn.Processes().Start(within(t), h.script(stubborn), guest.StartOptions{Timeout: 300 * time.Millisecond, Wait: long})
	check(t, err)
	if p.Running || !p.TimedOut || p.Exit.Signal != "KILL" || p.Exit.Code != 137 {
		t.Errorf("process %+v", p)
	}
	h.awaitGone(t, "stubborn-815")
}

func testReadOffsets(t *testing.T, h Harness) {
	p := h.background(t, "printf 0123456789", guest.StartOptions{})
	h.ended(t, p.ID)
	for _, tt := range []struct {
		name string
		req  guest.ReadRequest
		want string
		from int64
	}{
		{"all", guest.ReadRequest{Max: 100}, "0123456789", 0},
		{"middle", guest.ReadRequest{Offset: 3, Max: 4}, "3456", 3},
		{"peek", guest.ReadRequest{Peek: true, Max: 100}, "0123456789", 0},
		{"last", guest.ReadRequest{FromLast: true, Max: 2}, "78", 7},
		{"last_again", guest.ReadRequest{FromLast: true, Max: 9}, "9", 9},
		{"from_end", guest.ReadRequest{Offset: -3, Max: 9}, "789", 7},
		{"before_begin", guest.ReadRequest{Offset: -99, Max: 2}, "01", 0},
		{"past_end", guest.ReadRequest{Offset: 99, Max: 9, Wait: long}, "", 10},
		{"nothing", guest.ReadRequest{Offset: 5}, "", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, out := h.read(t, p.ID, tt.req)
			if string(out.Both) != tt.want || out.Offset != tt.from || out.Next != tt.from+int64(len(tt.want)) {
				t.Errorf("got %q from %d to %d", out.Both, out.Offset, out.Next)
			}
		})
	}
}

func testReadWaits(t *testing.T, h Harness) {
	p := h.background(t, "read a; echo got $a >&2; read b; echo end; exit 5", guest.StartOptions{KeepStdin: true})
	if !p.Running || p.LogPath == "" {
		t.Fatalf("process %+v", p)
	}
	type result struct {
		p   guest.Process
		out guest.Output
		err error
	}
	results := make(chan result)
	read := func() {
		p, out, err := h.Conn.Processes().Read(within(t), p.ID, guest.ReadRequest{FromLast: true, Max: 100, Wait: long})
		results <- result{p, out, err}
	}
	go read()
	_, err := h.Conn.Processes().Control(within(t), p.ID, guest.Input{Stdin: []byte("one\n")})
	check(t, err)
	if r := <-results; r.err != nil || string(r.out.Both) != "got one\n" {
		t.Errorf("read %q, error %v", r.out.Both, r.err)
	}
	go read()
	_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{CloseStdin: true})
	check(t, err)
	if r := <-results; r.err != nil || string(r.out.Both) != "end\n" {
		t.Errorf("read %q, error %v", r.out.Both, r.err)
	}
	if p = h.ended(t, p.ID); p.Exit.Code != 5 || p.Stdout != 4 || p.Stderr != 8 {
		t.Errorf("process %+v", p)
	}
	if log := h.sh(t, "cat "+p.LogPath); log != "got one\nend\n" {
		t.Errorf("log file has %q", log)
	}
	for off, want := range map[int64][]int{0: {0, 8, 4}, 5: {0, 3, 4}, 8: {4}, 10: {2}, 12: {0}} { // stderr came first
		if _, out := h.read(t, p.ID, guest.ReadRequest{Offset: off, Max: 100}); out.Runs != nil && !slices.Equal(out.Runs, want) {
			t.Errorf("from %d on there are runs of %v, want %v", off, out.Runs, want)
		}
	}
	// Cancelling ends the waiting only.
	p = h.background(t, "sleep 7332", guest.StartOptions{})
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	_, _, err = h.Conn.Processes().Read(ctx, p.ID, guest.ReadRequest{Wait: long})
	wantErr(t, err, context.DeadlineExceeded)
	if now, _ := h.read(t, p.ID, guest.ReadRequest{}); !now.Running {
		t.Error("a cancelled read ended the process")
	}
	_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{Signal: "KILL"})
	check(t, err)
	h.ended(t, p.ID)
}

func testReadUntil(t *testing.T, h Harness) {
	p := h.background(t, "echo starting; read x; printf 'lis'; printf 'tening on 80'; read x", guest.StartOptions{KeepStdin: true})
	_, out := h.read(t, p.ID, guest.ReadRequest{Max: 100, Until: `start\w+`, Wait: long})
	if !out.Matched {
		t.Errorf("no match in %q", out.Both)
	}
	_, out = h.read(t, p.ID, guest.ReadRequest{Max: 100, Until: `listening`, Wait: 50 * time.Millisecond})
	if out.Matched {
		t.Errorf("match in %q", out.Both)
	}
	_, err := h.Conn.Processes().Control(within(t), p.ID, guest.Input{Stdin: []byte("\n")})
	check(t, err)
	_, out = h.read(t, p.ID, guest.ReadRequest{Max: 100, Until: `listening on \d\d$`, Wait: long})
	if !out.Matched || !bytes.HasSuffix(out.Both, []byte("listening on 80")) {
		t.Errorf("matched %v in %q", out.Matched, out.Both)
	}
	_, _, err = h.Conn.Processes().Read(within(t), p.ID, guest.ReadRequest{Until: "("})
	if err == nil || !strings.Contains(err.Error(), "missing closing") {
		t.Errorf("a bad expression gives %v", err)
	}
	_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{CloseStdin: true})
	check(t, err)
	h.ended(t, p.ID)
}

func testControl(t *testing.T, h Harness) {
	for _, tt := range []struct {
		signal string
		code   int
	}{{"INT", 130}, {"TERM", 143}, {"HUP", 129}, {"KILL", 137}} {
		t.Run(tt.signal, func(t *testing.T) {
			// Some shells swallow an INT that comes while they start a command.
			p := h.background(t, "echo $$.; exec sleep 7333", guest.StartOptions{})
			_, out := h.read(t, p.ID, guest.ReadRequest{Max: 20, Until: `\.`, Wait: long})
			pid := strings.TrimRight(string(out.Both), ".\n")
			h.sh(t, `until tr '\0' ' ' </proc/`+pid+`/cmdline | grep -qx 'sleep 7333 *'; do sleep 0.01; done`)
			_, err := h.Conn.Processes().Control(within(t), p.ID, guest.Input{Signal: tt.signal})
			check(t, err)
			if end := h.ended(t, p.ID); end.Exit.Code != tt.code || end.Exit.Signal != tt.signal {
				t.Errorf("ended with %+v", end.Exit)
			}
		})
	}
	p := h.background(t, "sleep 7334", guest.StartOptions{KeepStdin: true})
	_, err := h.Conn.Processes().Control(within(t), p.ID, guest.Input{Signal: "USR1"})
	if err == nil {
		t.Error("USR1 is accepted")
	}
	// One that doesn't read its input holds up nobody, and takes no more than the limit.
	full := bytes.Repeat([]byte("x"), guest.MaxStdin)
	for err = nil; err == nil; {
		_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{Stdin: full})
	}
	wantErr(t, err, guest.ErrBusy)
	_, err = h.Conn.Processes().Control(within(t), p.ID, guest.Input{Signal: "KILL"})
	check(t, err)
	h.ended(t, p.ID)
}

// More than MaxLog: the oldest goes, what is left is exact, and memory is flat.
func testRing(t *testing.T, h Harness) {
	const lines, line0 = 9_000_000, 100_000_000 // of ten bytes
	p := h.background(t, fmt.Sprintf("seq %d %d", line0, line0+lines-1), guest.StartOptions{})
	p = h.ended(t, p.ID)
	if p.Stdout != 10*lines {
		t.Fatalf("wrote %d bytes", p.Stdout)
	}
	_, out := h.read(t, p.ID, guest.ReadRequest{Max: 1000})
	if out.First <= 0 || out.First < p.Stdout-guest.MaxLog || out.First > p.Stdout-guest.MaxLog/4 || out.Offset != out.First {
		t.Fatalf("first kept byte is %d, read from %d", out.First, out.Offset)
	}
	for _, off := range []int64{out.First + 9, 10 * (lines / 10 * 9), 10*lines - 100} {
		off -= off % 10
		_, out := h.read(t, p.ID, guest.ReadRequest{Offset: off, Max: 10})
		if want := fmt.Sprintf("%d\n", line0+off/10); string(out.Both) != want {
			t.Errorf("at %d: %q, want %q", off, out.Both, want)
		}
	}
	if size := h.sh(t, "wc -c <"+p.LogPath); strings.TrimSpace(size) != fmt.Sprint(p.Stdout-out.First) {
		t.Errorf("log file has %s bytes, want %d", size, p.Stdout-out.First)
	}
	_, out = h.read(t, p.ID, guest.ReadRequest{Until: fmt.Sprint(line0 + lines - 1), Max: 10, Wait: long})
	if !out.Matched {
		t.Error("the last line is not found")
	}
	if kb := h.resident(t); kb > 24<<10 {
		t.Errorf("the guest's server takes %d kB", kb)
	}
}

func testProcessesSurvive(t *testing.T, h Harness) {
	if h.Break == nil {
		return
	}
	p := h.background(t, "echo before; while ! [ -e go ]; do sleep 0.02; done; echo after; exit 9", guest.StartOptions{})
	waiting := make(chan error, 1)
	go func() {
		_, _, err := h.Conn.Processes().Read(within(t), p.ID, guest.ReadRequest{Until: "never", Wait: long})
		waiting <- err
	}()
	started := make(chan error, 1)
	go func() {
		_, _, err := h.Conn.Processes().Start(within(t), h.script("echo up >up; sleep 0.5; echo done >done"), guest.StartOptions{Wait: long})
		started <- err
	}()
	h.awaitFile(t, "up")
	h.Break()
	wantErr(t, <-waiting, guest.ErrUnreachable)
	wantErr(t, <-started, guest.ErrUnreachable)
	h.sh(t, "touch go")
	p = h.ended(t, p.ID)
	if _, out := h.read(t, p.ID, guest.ReadRequest{Max: 100}); p.Exit.Code != 9 || string(out.Both) != "before\nafter\n" {
		t.Errorf("exit %+v, output %q", p.Exit, out.Both)
	}
	h.awaitFile(t, "done") // also what Start waited for goes on
}

func testForgets(t *testing.T, h Harness) {
	keep := h.background(t, "read x", guest.StartOptions{KeepStdin: true})
	first := h.background(t, "true", guest.StartOptions{Wait: long})
	for range guest.MaxEnded {
		h.background(t, "true", guest.StartOptions{Wait: long})
	}
	_, _, err := h.Conn.Processes().Read(within(t), first.ID, guest.ReadRequest{})
	wantErr(t, err, guest.ErrNoProcess)
	if p, _ := h.read(t, keep.ID, guest.ReadRequest{}); !p.Running {
		t.Error("a running process is forgotten")
	}
	_, err = h.Conn.Processes().Control(within(t), keep.ID, guest.Input{CloseStdin: true})
	check(t, err)
	h.ended(t, keep.ID)
}
