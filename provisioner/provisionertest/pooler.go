package provisionertest

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// pooler returns the ability of p, which ends the test where there is none.
func pooler(t *testing.T, p provisioner.Provisioner) provisioner.Pooler {
	t.Helper()
	able, ok := provisioner.As[provisioner.Pooler](p)
	if !ok {
		t.Skip("this backend hands over no machines that were made ahead")
	}
	return able
}

// pooled makes the n-th machine for a pool, with a channel on which it was seen
// to be ready.
func (s *suite) pooled(t *testing.T, n int) (provisioner.Machine, guest.Conn) {
	t.Helper()
	pooler(t, s.p)
	spec := s.spec(n)
	spec.Pooled, spec.Hostname = true, fmt.Sprintf("pool-%d", n)
	spec.Papers.Owner, spec.Papers.Name = "pool:p", ""
	m, err := s.p.Create(s.ctx, spec)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	conn, err := s.p.Dial(s.ctx, m.Ref)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	opt := guest.StartOptions{Wait: patience, Max: 100}
	if p, _, err := conn.Processes().Start(s.ctx, guest.Cmd{Args: []string{"true"}}, opt); err != nil || p.Running || p.Exit.Code != 0 {
		t.Fatalf("the machine is not ready: %+v, %v", p, err)
	}
	return m, conn
}

// claim returns the spec by which the n-th machine is claimed, and what is
// listed of m then.
func (s *suite) claim(n int, m provisioner.Machine) (provisioner.Spec, provisioner.Machine) {
	spec := s.spec(n)
	spec.Hostname = fmt.Sprintf("claimed-%d", n)
	spec.Papers.Owner, spec.Papers.Name, spec.Papers.Keys = "local:1001", "mine", 1
	m.Papers = spec.Papers
	return spec, m
}

// rekeyed re-keys a machine, and closes the channel at the end of the test.
func (s *suite) rekeyed(t *testing.T, p provisioner.Provisioner, ref provisioner.Ref, spec provisioner.Spec, conn guest.Conn) guest.Conn {
	t.Helper()
	next, err := pooler(t, p).Rekey(s.ctx, ref, spec, conn)
	if err != nil {
		t.Fatalf("Rekey: %v", err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// identity is what a machine takes itself for.
type identity struct{ Hostname, MachineID string }

func (s *suite) identity(t *testing.T, conn guest.Conn) identity {
	t.Helper()
	return identity{s.runOn(t, conn, "uname -n"), s.runOn(t, conn, "cat /etc/machine-id 2>/dev/null || true")}
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`) // machine-id(5)

func recipe(t *testing.T, s *suite) {
	p := pooler(t, s.p)
	first, err := p.Recipe(s.ctx, s.spec(1))
	if err != nil || first == "" {
		t.Fatalf("Recipe = %q, %v", first, err)
	}
	for name, p := range map[string]provisioner.Pooler{"again": p, "after-restart": pooler(t, s.Open(t, instance, s.key))} {
		if got, err := p.Recipe(s.ctx, s.spec(2)); got != first || err != nil {
			t.Errorf("%s: Recipe = %q, %v, want %q", name, got, err, first)
		}
	}
	spec := s.spec(1)
	spec.Root = "no such root"
	_, err = p.Recipe(s.ctx, spec)
	wantErr(t, "Recipe of a root that there is not", err, provisioner.ErrInvalid)
}

// rekey holds a machine that was handed over to be its new owner's and nobody
// else's.
func rekey(t *testing.T, s *suite) {
	m, conn := s.pooled(t, 1)
	before := s.identity(t, conn)
	other, err := s.p.Dial(s.ctx, m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.runOn(t, other, "true")

	spec, claimed := s.claim(1, m)
	next := s.rekeyed(t, s.p, m.Ref, spec, conn)
	for name, old := range map[string]guest.Conn{"given": conn, "another": other} {
		_, err := old.Run(s.ctx, guest.Cmd{Args: []string{"true"}}, guest.Streams{})
		wantErr(t, "run over the "+name+" channel from before", err, guest.ErrUnreachable)
		_, err = old.Processes().List(s.ctx)
		wantErr(t, "list over the "+name+" channel from before", err, guest.ErrUnreachable)
	}
	after := s.identity(t, next)
	if after.Hostname != spec.Hostname || after.MachineID == before.MachineID || !machineID.MatchString(after.MachineID) {
		t.Errorf("the machine was %+v and is %+v, want the name %s and another machine-id", before, after, spec.Hostname)
	}
	if list, err := next.Processes().List(s.ctx); err != nil || len(list) > 0 {
		t.Errorf("its new owner sees processes of before: %+v, %v", list, err)
	}
	if p, _, err := next.Processes().Start(s.ctx, guest.Cmd{Args: []string{"true"}}, guest.StartOptions{Wait: patience}); err != nil || p.Running {
		t.Errorf("Start: %+v, %v", p, err)
	}
	for name, p := range map[string]provisioner.Provisioner{"now": s.p, "after-restart": s.Open(t, instance, s.key)} {
		s.wantList(t, p, claimed)
		if got := s.run(t, p, m.Ref, "uname -n"); got != spec.Hostname {
			t.Errorf("%s: the machine that is dialled is %q, want %q", name, got, spec.Hostname)
		}
	}
}

func rekeyTwo(t *testing.T, s *suite) {
	var ids []string
	for n := 1; n <= 2; n++ {
		m, conn := s.pooled(t, n)
		spec, _ := s.claim(n, m)
		ids = append(ids, s.identity(t, s.rekeyed(t, s.p, m.Ref, spec, conn)).MachineID)
	}
	if ids[0] == ids[1] {
		t.Errorf("both machines have the machine-id %q", ids[0])
	}
}

// rekeyTwice repeats a hand-over that was done, with each channel there may be.
func rekeyTwice(t *testing.T, s *suite) {
	m, conn := s.pooled(t, 1)
	spec, claimed := s.claim(1, m)
	next := s.rekeyed(t, s.p, m.Ref, spec, conn)
	for _, tt := range []struct {
		name string
		conn guest.Conn
	}{{"open", next}, {"none", nil}, {"from-before", conn}} {
		t.Run(tt.name, func(t *testing.T) {
			again := s.rekeyed(t, s.p, m.Ref, spec, tt.conn)
			if got := s.identity(t, again); got.Hostname != spec.Hostname || !machineID.MatchString(got.MachineID) {
				t.Errorf("the machine is %+v, want %s", got, spec.Hostname)
			}
			s.wantList(t, s.p, claimed)
		})
	}
}

// rekeyAfterCrash repeats a hand-over of which a crash left one half done: the
// guest, or the papers.
func rekeyAfterCrash(t *testing.T, s *suite) {
	pooler(t, s.p)
	for n, tt := range []struct {
		name string
		half func(t *testing.T, m provisioner.Machine, spec provisioner.Spec, conn guest.Conn)
	}{
		{"guest-only", func(t *testing.T, m provisioner.Machine, spec provisioner.Spec, conn guest.Conn) {
			s.rekeyed(t, s.p, m.Ref, spec, conn)
			s.relabelled(t, m.Ref, m.Papers)
		}},
		{"papers-only", func(t *testing.T, m provisioner.Machine, spec provisioner.Spec, _ guest.Conn) {
			s.relabelled(t, m.Ref, spec.Papers)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, conn := s.pooled(t, n)
			spec, _ := s.claim(n, m)
			tt.half(t, m, spec, conn)
			after := s.Open(t, instance, s.key)
			next := s.rekeyed(t, after, m.Ref, spec, nil)
			if got := s.identity(t, next); got.Hostname != spec.Hostname || !machineID.MatchString(got.MachineID) {
				t.Errorf("the machine is %+v, want %s", got, spec.Hostname)
			}
			for _, got := range s.list(t, after) {
				if got.Sandbox == m.Sandbox && !cmp.Equal(got.Papers, spec.Papers) {
					t.Errorf("papers %+v, want %+v", got.Papers, spec.Papers)
				}
			}
			s.run(t, after, m.Ref, "true")
		})
	}
}

// relabelled puts papers on a machine.
func (s *suite) relabelled(t *testing.T, ref provisioner.Ref, papers provisioner.Papers) {
	t.Helper()
	r, ok := provisioner.As[provisioner.Relabeler](s.p)
	if !ok {
		t.Fatal("no Relabeler: extending a sandbox needs it")
	}
	if err := r.Relabel(s.ctx, ref, papers); err != nil {
		t.Fatalf("Relabel: %v", err)
	}
}

// rekeyRefused hands over nothing to whom it is not due, and changes nothing.
func rekeyRefused(t *testing.T, s *suite) {
	m, conn := s.pooled(t, 1)
	before := s.identity(t, conn)
	handle := m.Ref
	handle.Handle += "x"
	for _, tt := range []struct {
		name string
		p    provisioner.Provisioner
		ref  provisioner.Ref
		edit func(*provisioner.Papers)
		want error // nil is any
	}{
		{"another-key", s.Open(t, instance, Key(t, 2)), m.Ref, nil, provisioner.ErrNotOurs},
		{"another-instance", s.Open(t, "inst-2", s.key), m.Ref, func(p *provisioner.Papers) { p.Instance = "inst-2" }, provisioner.ErrNotOurs},
		{"another-handle", s.p, handle, nil, nil},
		{"papers-of-another-instance", s.p, m.Ref, func(p *provisioner.Papers) { p.Instance = "inst-2" }, provisioner.ErrInvalid},
		{"papers-of-another-sandbox", s.p, m.Ref, func(p *provisioner.Papers) { p.Sandbox = "sb-contract2" }, provisioner.ErrInvalid},
		{"no-generation", s.p, m.Ref, func(p *provisioner.Papers) { p.Keys = 0 }, provisioner.ErrInvalid},
		{"generation-too-high", s.p, m.Ref, func(p *provisioner.Papers) { p.Keys = 2 }, provisioner.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec, _ := s.claim(1, m)
			if tt.edit != nil {
				tt.edit(&spec.Papers)
			}
			given, err := s.p.Dial(s.ctx, m.Ref)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pooler(t, tt.p).Rekey(s.ctx, tt.ref, spec, given); err == nil {
				t.Error("Rekey succeeded")
			} else if tt.want != nil {
				wantErr(t, "Rekey", err, tt.want)
			}
		})
	}
	if diff := cmp.Diff(before, s.identity(t, conn)); diff != "" {
		t.Errorf("identity (-before +after):\n%s", diff)
	}
	s.wantList(t, s.p, m)
	t.Run("earlier-generation", func(t *testing.T) {
		spec, claimed := s.claim(1, m)
		next := s.rekeyed(t, s.p, m.Ref, spec, conn)
		spec.Papers.Keys = 0
		_, err := pooler(t, s.p).Rekey(s.ctx, m.Ref, spec, nil)
		wantErr(t, "Rekey", err, provisioner.ErrInvalid)
		spec.Papers.Keys, spec.Papers.Owner = claimed.Papers.Keys, "local:1002"
		_, err = pooler(t, s.p).Rekey(s.ctx, m.Ref, spec, nil)
		wantErr(t, "Rekey for another owner", err, provisioner.ErrInvalid)
		s.runOn(t, next, "true")
		s.wantList(t, s.p, claimed)
	})
}

func rekeyUnknown(t *testing.T, s *suite) {
	m, conn := s.pooled(t, 1)
	spec, _ := s.claim(1, m)
	if err := s.p.Destroy(s.ctx, m.Ref); err != nil {
		t.Fatal(err)
	}
	for name, conn := range map[string]guest.Conn{"open": conn, "none": nil} {
		_, err := pooler(t, s.p).Rekey(s.ctx, m.Ref, spec, conn)
		wantErr(t, "Rekey of a machine that is gone, channel "+name, err, provisioner.ErrNotFound)
	}
	s.wantNothingLeft(t)
}
