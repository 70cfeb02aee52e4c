package terminal_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

func TestParts(t *testing.T) {
	var b bytes.Buffer
	w := terminal.NewWriter(&b)
	long := strings.Repeat("x", terminal.MaxPart+1)
	if n, err := io.WriteString(w.Stream(terminal.Output), long); n != len(long) || err != nil {
		t.Fatal(n, err)
	}
	if err := w.Send(terminal.Output, []byte(long)); err == nil {
		t.Error("a part that is too long was sent")
	}
	if err := w.SendJSON(terminal.Exited, terminal.Exit{Code: 3}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind terminal.Kind
		text string
	}{{terminal.Output, long[1:]}, {terminal.Output, "x"}, {terminal.Exited, `{"code":3}`}} {
		kind, part, err := terminal.Read(&b)
		if kind != want.kind || string(part) != want.text || err != nil {
			t.Errorf("got kind %d, %.20s, %v; want %d, %.20s", kind, part, err, want.kind, want.text)
		}
	}
	if _, _, err := terminal.Read(&b); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, bad := range []string{"\x00\x00\x00\x00", "\x7f\x00\x00\x00", "\x01\x01\x00\x01", "\x01\x00\x00\x02x", "\x01\x00"} {
		if _, _, err := terminal.Read(strings.NewReader(bad)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := terminal.Decode[terminal.Size]([]byte("1")); err == nil {
		t.Error("a number is no size")
	}
}

// What JSON would change is not sent.
func TestStartNeedsText(t *testing.T) {
	var b bytes.Buffer
	if err := terminal.NewClient(&b).Start(terminal.Request{Command: "ls \xff"}); err == nil || b.Len() > 0 {
		t.Errorf("got %v, %d bytes", err, b.Len())
	}
}

func TestStartTooLong(t *testing.T) {
	var b bytes.Buffer
	err := terminal.NewClient(&b).Start(terminal.Request{Command: strings.Repeat("x", terminal.MaxPart)})
	if err == nil || !strings.Contains(err.Error(), "65536 bytes: it is too long, with its variables 64 KiB are allowed; give a script on standard input") || b.Len() > 0 {
		t.Errorf("got %v, %d bytes", err, b.Len())
	}
}
