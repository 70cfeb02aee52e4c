package provisionertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

func createTwice(t *testing.T, s *suite) {
	first := s.create(t, s.p)
	s.run(t, s.p, first.Ref, "echo one > /tmp/mark")
	second := s.create(t, s.p)
	if diff := cmp.Diff(first, second, learnt()); diff != "" {
		t.Errorf("second Create (-first +second):\n%s", diff)
	}
	if !first.Running || first.Home == "" || first.OS == "" {
		t.Errorf("a created machine does not run or says too little: %+v", first)
	}
	if got := s.run(t, s.p, first.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("after the second Create the file holds %q, want %q", got, "one")
	}
	s.wantList(t, s.p, first)
}

func createAdopts(t *testing.T, s *suite) {
	first := s.create(t, s.p)
	s.run(t, s.p, first.Ref, "echo one > /tmp/mark")
	after := s.Open(t, instance, s.key)
	s.wantList(t, after, first)
	second := s.create(t, after)
	if diff := cmp.Diff(first, second, learnt()); diff != "" {
		t.Errorf("Create after a crash (-before +after):\n%s", diff)
	}
	if got := s.run(t, after, second.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("the adopted machine's file holds %q, want %q", got, "one")
	}
}

func createAtOnce(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	machines := make([]provisioner.Machine, 8)
	errs := make([]error, len(machines))
	for i := range machines {
		wg.Go(func() { machines[i], errs[i] = s.p.Create(s.ctx, s.spec(1)) })
	}
	wg.Wait()
	for i, m := range machines {
		if errs[i] != nil {
			t.Fatalf("Create %d: %v", i, errs[i])
		}
		m.Papers.Created, m.Papers.End, m.Papers.MaxEnd = machines[0].Papers.Created, machines[0].Papers.End, machines[0].Papers.MaxEnd
		if diff := cmp.Diff(machines[0], m, learnt()); diff != "" {
			t.Errorf("machine %d differs from the first:\n%s", i, diff)
		}
	}
	if n := len(s.list(t, s.p)); n != 1 {
		t.Errorf("List shows %d machines, want 1", n)
	}
}

func createBadSpec(t *testing.T, s *suite) {
	for _, tt := range []struct {
		name string
		edit func(*provisioner.Spec)
	}{
		{"no-id", func(s *provisioner.Spec) { s.Papers.Sandbox = "" }},
		{"path-as-id", func(s *provisioner.Spec) { s.Papers.Sandbox = "../sb-1" }},
		{"foreign-papers", func(s *provisioner.Spec) { s.Papers.Instance = "another" }},
		{"unknown-network", func(s *provisioner.Spec) { s.Network = "moon" }},
		{"negative-memory", func(s *provisioner.Spec) { s.MemoryMB = -1 }},
		{"unknown-root", func(s *provisioner.Spec) { s.Root = "no such root" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := s.spec(1)
			tt.edit(&spec)
			_, err := s.p.Create(s.ctx, spec)
			wantErr(t, "Create", err, provisioner.ErrInvalid)
		})
	}
	s.wantNothingLeft(t)
}

// vet says before what Create would say, and makes nothing.
func vet(t *testing.T, s *suite) {
	v, ok := provisioner.As[provisioner.Vetter](s.p)
	if !ok {
		t.Fatalf("%T can't say before what it can't make", s.p)
	}
	spec := s.spec(1)
	spec.Papers = provisioner.Papers{}
	if err := v.Vet(s.ctx, spec); err != nil {
		t.Errorf("Vet of what can be made: %v", err)
	}
	spec.Root = "no such root"
	wantErr(t, "Vet", v.Vet(s.ctx, spec), provisioner.ErrInvalid)
	s.wantNothingLeft(t)
}

// createCancelled gives Create up at many points of its way. When it fails,
// nothing may be left; when it made it, the machine must be whole.
func createCancelled(t *testing.T, s *suite) {
	for after := time.Millisecond; after < 2*time.Second; after = after*3/2 + time.Millisecond {
		ctx, cancel := context.WithTimeout(s.ctx, after)
		m, err := s.p.Create(ctx, s.spec(1))
		cancel()
		if err != nil {
			wantErr(t, fmt.Sprintf("Create given up after %v", after), err, context.DeadlineExceeded)
			s.wantNothingLeft(t)
			continue
		}
		s.run(t, s.p, m.Ref, "true")
		return
	}
	t.Error("no Create made it in time, so its end was never given up")
}

func destroyTwice(t *testing.T, s *suite) {
	m := s.create(t, s.p)
	for i := range 2 {
		if err := s.p.Destroy(s.ctx, m.Ref); err != nil {
			t.Fatalf("Destroy, time %d: %v", i+1, err)
		}
		s.wantNothingLeft(t)
	}
	if err := s.p.Destroy(s.ctx, provisioner.Ref{Sandbox: "sb-never", Handle: m.Handle}); err != nil && !strings.Contains(err.Error(), "not ours") {
		t.Errorf("Destroy of an unknown sandbox: %v", err)
	}
	_, err := s.p.Dial(s.ctx, m.Ref)
	wantErr(t, "Dial after Destroy", err, provisioner.ErrNotFound)
	again := s.create(t, s.p)
	s.run(t, s.p, again.Ref, "true")
}

// destroyByOthers lets other installations have a go at a machine: one with
// another key, one with the key but another name.
func destroyByOthers(t *testing.T, s *suite) {
	m := s.create(t, s.p)
	s.run(t, s.p, m.Ref, "echo one > /tmp/mark")
	for name, other := range map[string]provisioner.Provisioner{
		"another-key":      s.Open(t, instance, Key(t, 2)),
		"another-instance": s.Open(t, "inst-2", s.key),
	} {
		t.Run(name, func(t *testing.T) {
			s.wantRefused(t, other, m.Ref, m.Papers)
			s.wantList(t, other)
		})
	}
	t.Run("another-handle", func(t *testing.T) {
		ref := provisioner.Ref{Sandbox: m.Sandbox, Handle: m.Handle + "x"}
		if err := s.p.Destroy(s.ctx, ref); err != nil {
			wantErr(t, "Destroy", err, provisioner.ErrNotOurs)
		}
	})
	if got := s.run(t, s.p, m.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("the machine's file holds %q, want %q", got, "one")
	}
	s.wantList(t, s.p, m)
}

// wantRefused checks that p changes nothing about a machine.
func (s *suite) wantRefused(t *testing.T, p provisioner.Provisioner, ref provisioner.Ref, papers provisioner.Papers) {
	t.Helper()
	wantErr(t, "Destroy", p.Destroy(s.ctx, ref), provisioner.ErrNotOurs)
	if r, ok := provisioner.As[provisioner.Relabeler](p); ok {
		if err := r.Relabel(s.ctx, ref, papers); err == nil {
			t.Error("Relabel of a machine that is not ours succeeded")
		}
	}
	_, err := p.Dial(s.ctx, ref)
	wantErr(t, "Dial", err, provisioner.ErrNotOurs)
}

func forgedPapers(t *testing.T, s *suite) {
	m := s.create(t, s.p)
	s.run(t, s.p, m.Ref, "echo one > /tmp/mark")
	seal := func(key provisioner.Key, edit func(*provisioner.Papers)) string {
		papers := m.Papers
		edit(&papers)
		sealed, err := key.Seal(papers)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	genuine := seal(s.key, func(*provisioner.Papers) {})
	for name, sealed := range map[string]string{
		"none":             "",
		"another-key":      seal(Key(t, 2), func(*provisioner.Papers) {}),
		"edited":           strings.Replace(genuine, `"local:1000"`, `"local:1001"`, 1),
		"another-sandbox":  seal(s.key, func(p *provisioner.Papers) { p.Sandbox = "sb-contract2" }),
		"another-instance": seal(s.key, func(p *provisioner.Papers) { p.Instance = "inst-2" }),
	} {
		t.Run(name, func(t *testing.T) {
			s.SetPapers(t, m.Ref, sealed)
			defer s.SetPapers(t, m.Ref, genuine)
			s.wantRefused(t, s.p, m.Ref, m.Papers)
			s.wantList(t, s.p)
		})
	}
	if got := s.run(t, s.p, m.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("the machine's file holds %q, want %q", got, "one")
	}
}

func relabel(t *testing.T, s *suite) {
	r, ok := provisioner.As[provisioner.Relabeler](s.p)
	if !ok {
		t.Fatal("no Relabeler: extending a sandbox needs it")
	}
	m := s.create(t, s.p)
	m.Papers.End = m.Papers.End.Add(30 * time.Minute)
	if err := r.Relabel(s.ctx, m.Ref, m.Papers); err != nil {
		t.Fatalf("Relabel: %v", err)
	}
	s.wantList(t, s.p, m)
	s.wantList(t, s.Open(t, instance, s.key), m)

	other := m.Papers
	other.Sandbox = "sb-contract2"
	if err := r.Relabel(s.ctx, m.Ref, other); err == nil {
		t.Error("Relabel gave a machine the papers of another sandbox")
	}
	wantErr(t, "Relabel of an unknown machine",
		r.Relabel(s.ctx, provisioner.Ref{Sandbox: other.Sandbox}, other), provisioner.ErrNotFound)
	s.wantList(t, s.p, m)
}

func dialUnknown(t *testing.T, s *suite) {
	_, err := s.p.Dial(s.ctx, provisioner.Ref{Sandbox: "sb-never"})
	wantErr(t, "Dial", err, provisioner.ErrNotFound)
}

func manyAtOnce(t *testing.T, s *suite) {
	const n = 5
	var wg sync.WaitGroup
	machines := make([]provisioner.Machine, n)
	for i := range n {
		wg.Go(func() {
			var err error
			if machines[i], err = s.p.Create(s.ctx, s.spec(i)); err != nil {
				t.Errorf("Create %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, m := range machines {
		s.run(t, s.p, m.Ref, fmt.Sprintf("echo %d > /tmp/mark", i))
	}
	for i, m := range machines {
		if got := s.run(t, s.p, m.Ref, "cat /tmp/mark"); got != fmt.Sprint(i) {
			t.Errorf("machine %d has the file of machine %s", i, got)
		}
	}
	s.wantList(t, s.p, machines...)
	for _, m := range machines {
		wg.Go(func() {
			if err := s.p.Destroy(s.ctx, m.Ref); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
	wg.Wait()
	s.wantNothingLeft(t)
}
