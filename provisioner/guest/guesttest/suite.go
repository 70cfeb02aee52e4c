// Package guesttest holds every implementation of guest.Conn to the promises of
// package guest. It drives a real guest with a POSIX shell and /proc, through
// nothing but the Conn.
package guesttest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Harness is a guest made for one test.
type Harness struct {
	Conn   guest.Conn
	Dir    string // an empty directory in the guest, where we may write
	Break  func() // breaks the connection under Conn; nil if it has none
	Denied string // a file in the guest that we may not read; empty if there is none
	Full   string // a directory of the guest with room for some 64 kB; empty if there is none
	PID    int    // of the guest's server, if it runs on this machine: its memory is watched
	Big    int64  // bytes of a big file; 0 is 1 GiB
	Own    bool   // it has agentlab-guest
	NoTTY  string // what the guest lacks to have terminals, as the error must say; empty if it has them
}

// patience bounds waiting for what must happen; nothing is measured by it.
const patience = 2 * time.Minute

// Run runs the suite. New makes a guest for each test and cleans up after it.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"Exit", testExit},
		{"Streams", testStreams},
		{"Environment", testEnvironment},
		{"NoStart", testNoStart},
		{"OwnProgram", testOwnProgram},
		{"User", testUser},
		{"StdinIsFed", testStdin},
		{"Background", testBackground},
		{"MuchOutput", testMuchOutput},
		{"StalledReader", testStalledReader},
		{"FailingWriter", testFailingWriter},
		{"CancelKillsAll", testCancelKillsAll},
		{"BrokenConnectionKills", testBrokenConnectionKills},
		{"ManyAtOnce", testManyAtOnce},
		{"Terminal", testTerminal},
		{"Start", testStart},
		{"StartClips", testStartClips},
		{"StartCancel", testStartCancel},
		{"Timeout", testTimeout},
		{"ReadOffsets", testReadOffsets},
		{"ReadWaits", testReadWaits},
		{"ReadUntil", testReadUntil},
		{"Control", testControl},
		{"Ring", testRing},
		{"ProcessesSurvive", testProcessesSurvive},
		{"Forgets", testForgets},
		{"ReadRanges", testReadRanges},
		{"ReadWrongKinds", testReadWrongKinds},
		{"WriteReplaces", testWriteReplaces},
		{"WriteFails", testWriteFails},
		{"WriteUnless", testWriteUnless},
		{"WriteAppends", testWriteAppends},
		{"WriteNoSpace", testWriteNoSpace},
		{"Denied", testDenied},
		{"Names", testNames},
		{"BigFile", testBigFile},
		{"List", testList},
		{"ListLimits", testListLimits},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, newHarness(t)) })
	}
}

// within returns a context for what must not take forever.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// sh runs a script in the harness's directory and returns what it wrote.
func (h Harness) sh(t *testing.T, script string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	exit, err := h.Conn.Run(within(t), h.script(script), guest.Streams{Stdout: &out, Stderr: &errOut})
	if err != nil || exit.Code != 0 {
		t.Fatalf("run %q: exit %+v, error %v, stderr %q", script, exit, err, errOut.String())
	}
	return out.String()
}

func (h Harness) script(text string) guest.Cmd {
	return guest.Cmd{Args: []string{"sh", "-c", text}, Dir: h.Dir}
}

// awaitGone waits until no process has the text in its command line.
func (h Harness) awaitGone(t *testing.T, text string) {
	t.Helper()
	// The pattern must not find itself.
	find := `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <$f 2>/dev/null | grep -q '[` + text[:1] + `]` + text[1:] + `' && echo $f; done; true`
	for end := time.Now().Add(patience); ; {
		left := h.sh(t, find)
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still running: %q", left)
		}
	}
}

// awaitFile waits until a file of the guest has content.
func (h Harness) awaitFile(t *testing.T, path string) {
	t.Helper()
	h.sh(t, "while ! [ -s '"+path+"' ]; do sleep 0.02; done")
}

// resident returns the resident memory of the guest's server in kB, or 0.
func (h Harness) resident(t *testing.T) int {
	t.Helper()
	if h.PID == 0 {
		return 0
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(h.PID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
