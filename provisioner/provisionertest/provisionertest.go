// Package provisionertest is the contract of [provisioner.Provisioner] as a
// test suite. Every backend runs it, against the real thing or a simulator.
package provisionertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Backend is one place where machines are made, empty at first.
type Backend struct {
	// Open returns a provisioner over the place as a new process would, while
	// others may be open.
	Open func(t *testing.T, instance string, key provisioner.Key) provisioner.Provisioner

	// Spec is that of a small machine; the suite adds the papers.
	Spec provisioner.Spec

	// SetPapers replaces the sealed papers on a machine, as an intruder would.
	SetPapers func(t *testing.T, ref provisioner.Ref, sealed string)

	// Leftovers names everything that exists for machines: processes, mounts,
	// directories, records. Without a machine there is nothing.
	Leftovers func(t *testing.T) []string
}

const (
	instance = "inst-1"
	// patience bounds what waits for a real machine, on a slow host.
	patience = 2 * time.Minute
)

// Run holds a backend to the contract; each subtest gets a new one.
func Run(t *testing.T, newBackend func(t *testing.T) Backend) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, s *suite)
	}{
		{"CreateTwiceIsOnce", createTwice},
		{"CreateAdoptsAfterCrash", createAdopts},
		{"CreateAtOnceIsOnce", createAtOnce},
		{"CreateRefusesBadSpec", createBadSpec},
		{"Vet", vet},
		{"CreateCancelledLeavesNothing", createCancelled},
		{"DestroyTwice", destroyTwice},
		{"DestroyIsRefusedToOthers", destroyByOthers},
		{"ForgedPapers", forgedPapers},
		{"Relabel", relabel},
		{"DialUnknown", dialUnknown},
		{"ManyAtOnce", manyAtOnce},
		{"Recipe", recipe},
		{"Rekey", rekey},
		{"RekeyOfTwoMachines", rekeyTwo},
		{"RekeyTwiceIsOnce", rekeyTwice},
		{"RekeyAfterCrash", rekeyAfterCrash},
		{"RekeyIsRefused", rekeyRefused},
		{"RekeyUnknown", rekeyUnknown},
		{"Stop", stop},
		{"Pause", pause},
		{"SwitchingIsRefused", switchingRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			b := newBackend(t)
			s := &suite{Backend: b, ctx: ctx, key: RandomKey(t)}
			s.p = b.Open(t, instance, s.key)
			t.Cleanup(func() { s.destroyAll(t) })
			tt.test(t, s)
		})
	}
}

// Key returns a key made of one byte.
func Key(t *testing.T, fill byte) provisioner.Key {
	t.Helper()
	k, err := provisioner.NewKey(bytes.Repeat([]byte{fill}, provisioner.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// RandomKey returns that of one run: on a real cluster there may be machines of another.
func RandomKey(t *testing.T) provisioner.Key {
	t.Helper()
	secret := make([]byte, provisioner.KeySize)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	k, err := provisioner.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type suite struct {
	Backend
	ctx context.Context
	key provisioner.Key
	p   provisioner.Provisioner
}

// spec returns that of the n-th machine.
func (s *suite) spec(n int) provisioner.Spec {
	spec := s.Spec
	now := time.Now().Truncate(time.Second).UTC()
	spec.Papers = provisioner.Papers{
		Instance: instance,
		Sandbox:  fmt.Sprintf("sb-contract%d", n),
		Owner:    "local:1000",
		Name:     "n",
		Profile:  "p",
		Created:  now,
		End:      now.Add(time.Hour),
		MaxEnd:   now.Add(2 * time.Hour),
		MemoryMB: spec.MemoryMB,
	}
	return spec
}

// create makes the machine of spec 1.
func (s *suite) create(t *testing.T, p provisioner.Provisioner) provisioner.Machine {
	t.Helper()
	m, err := p.Create(s.ctx, s.spec(1))
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return m
}

// run runs a shell command in a machine and returns what it printed.
func (s *suite) run(t *testing.T, p provisioner.Provisioner, ref provisioner.Ref, command string) string {
	t.Helper()
	conn, err := p.Dial(s.ctx, ref)
	if err != nil {
		t.Fatalf("Dial %s: %v", ref.Sandbox, err)
	}
	defer conn.Close()
	return s.runOn(t, conn, command)
}

// runOn is run for a channel that is open.
func (s *suite) runOn(t *testing.T, conn guest.Conn, command string) string {
	t.Helper()
	var out bytes.Buffer
	exit, err := conn.Run(s.ctx, guest.Cmd{Args: []string{"/bin/sh", "-c", command}}, guest.Streams{Stdout: &out, Stderr: &out})
	if err != nil || exit.Code != 0 {
		t.Fatalf("run %q: exit %+v, %v\n%s", command, exit, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func (s *suite) list(t *testing.T, p provisioner.Provisioner) []provisioner.Machine {
	t.Helper()
	list, err := p.List(s.ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return list
}

// learnt lets a machine's address become known.
func learnt() cmp.Option {
	known := cmp.Comparer(func(a, b string) bool { return a == b || a == "" || b == "" })
	return cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".IP" }, known)
}

// wantList checks that List shows exactly these machines.
func (s *suite) wantList(t *testing.T, p provisioner.Provisioner, want ...provisioner.Machine) {
	t.Helper()
	byID := cmpopts.SortSlices(func(a, b provisioner.Machine) bool { return a.Sandbox < b.Sandbox })
	if diff := cmp.Diff(want, s.list(t, p), byID, learnt(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func (s *suite) wantNothingLeft(t *testing.T) {
	t.Helper()
	s.wantList(t, s.p)
	if left := s.Leftovers(t); len(left) > 0 {
		t.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
}

// destroyAll removes what a test made, and at the end of each test checks that
// nothing stays of a machine that lived.
func (s *suite) destroyAll(t *testing.T) {
	s.ctx = context.Background()
	for _, m := range s.list(t, s.p) {
		if err := s.p.Destroy(s.ctx, m.Ref); err != nil {
			t.Errorf("Destroy %s: %v", m.Sandbox, err)
		}
	}
	s.wantNothingLeft(t)
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}
