package provisioner_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

func newKey(t *testing.T, fill byte) provisioner.Key {
	t.Helper()
	k, err := provisioner.NewKey(bytes.Repeat([]byte{fill}, provisioner.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPapersOpenOnlyUnderTheirKey(t *testing.T) {
	k := newKey(t, 1)
	end := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	want := provisioner.Papers{
		Instance: "i", Sandbox: "sb-1", Owner: "local:1000", Name: "a", Profile: "p",
		Created: end.Add(-time.Hour), End: end, MaxEnd: end.Add(time.Hour), MemoryMB: 64,
	}
	sealed, err := k.Seal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.Open(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Open(Seal(p)) (-want +got):\n%s", diff)
	}
	if _, err := newKey(t, 2).Open(sealed); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("another key opens the papers: %v", err)
	}
}

// Any change of any byte must be noticed, also one of the letter case of the
// HMAC's own text if it changes the papers.
func TestPapersNoticeEveryChangedByte(t *testing.T) {
	k := newKey(t, 1)
	sealed, err := k.Seal(provisioner.Papers{Instance: "i", Sandbox: "sb-1", Owner: "local:1000"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		forged := []byte(sealed)
		forged[i] ^= 1
		if p, err := k.Open(string(forged)); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("byte %d changed: papers %+v, error %v", i, p, err)
		}
		if _, err := k.Open(sealed[:i]); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("cut at %d: error %v", i, err)
		}
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	k := newKey(t, 'A')
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(verb, k); bytes.Contains([]byte(s), []byte("AAAA")) || bytes.Contains([]byte(s), []byte("4141")) || bytes.Contains([]byte(s), []byte("65 65")) {
			t.Errorf("%s prints the key: %s", verb, s)
		}
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	k := newKey(t, 1)
	a, err := k.Derive("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Derive("b")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, b) || len(a) != 32 {
		t.Errorf("Derive(a) = %x, Derive(b) = %x", a, b)
	}
}
