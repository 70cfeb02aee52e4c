package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// An installation below a home that only its owner can pass works, also for
// root, whose machines run as nobody.
func TestInstallationThatNobodyCanPass(t *testing.T) {
	p := newPlace(t, programs(t))
	locked := filepath.Join(t.TempDir(), "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(p.Guest)
	if err != nil {
		t.Fatal(err)
	}
	p.Guest = filepath.Join(locked, "agentlab-guest")
	if err := os.WriteFile(p.Guest, program, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
	m, err := p.Create(t.Context(), testSpec("sb-locked"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.Dial(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	exit, err := conn.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{})
	if err != nil || exit.Code != 0 {
		t.Errorf("Run: %+v, %v", exit, err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
}

// A copy is made once, and anew when the program is another one.
func TestGuestCopyFollowsItsProgram(t *testing.T) {
	p := newPlace(t, programs(t))
	st, err := p.state()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "agentlab-guest")
	copyOf := func(text string) string {
		if err := os.RemoveAll(program); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		path, err := st.guestBinary(program)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("copy of %q holds %q (%v)", text, got, err)
		}
		return path
	}
	first := copyOf("one")
	if second := copyOf("two"); second == first {
		t.Error("another program has the same copy")
	}
	if again := copyOf("one"); again != first {
		t.Errorf("the same program has two copies, %s and %s", first, again)
	}
}
