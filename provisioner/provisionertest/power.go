package provisionertest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// stop switches a machine off and on again, whose files are kept, in a process
// that knows nothing of before.
func stop(t *testing.T, s *suite) {
	p, ok := provisioner.As[provisioner.Stopper](s.p)
	if !ok {
		t.Skip("this backend does not keep the disk of a machine that is off")
	}
	m := s.create(t, s.p)
	s.run(t, s.p, m.Ref, "echo one > $HOME/mark; sync")
	for range 2 {
		if err := p.Stop(s.ctx, m.Ref); err != nil {
			t.Fatalf("Stop: %v", err)
		}
	}
	off := m
	off.Running = false
	s.wantList(t, s.p, off)
	after := s.Open(t, instance, s.key)
	s.wantList(t, after, off)
	p, _ = provisioner.As[provisioner.Stopper](after)
	for range 2 {
		if err := p.Start(s.ctx, m.Ref); err != nil {
			t.Fatalf("Start: %v", err)
		}
	}
	s.wantList(t, after, m)
	if got := s.run(t, after, m.Ref, "cat $HOME/mark"); got != "one" {
		t.Errorf("after a Start the file holds %q, want %q", got, "one")
	}
	if err := p.Stop(s.ctx, m.Ref); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if err := after.Destroy(s.ctx, m.Ref); err != nil {
		t.Fatalf("Destroy of a machine that is off: %v", err)
	}
	s.wantNothingLeft(t)
	wantErr(t, "Stop of a machine that is gone", p.Stop(s.ctx, m.Ref), provisioner.ErrNotFound)
	wantErr(t, "Start of a machine that is gone", p.Start(s.ctx, m.Ref), provisioner.ErrNotFound)
}

// pause holds a machine still, in which a process then does nothing.
func pause(t *testing.T, s *suite) {
	p, ok := provisioner.As[provisioner.Suspender](s.p)
	if !ok {
		t.Skip("this backend does not hold machines still")
	}
	m := s.create(t, s.p)
	s.run(t, s.p, m.Ref, "echo one > /tmp/mark")
	for range 2 {
		if err := p.Pause(s.ctx, m.Ref); err != nil {
			t.Fatalf("Pause: %v", err)
		}
	}
	s.wantList(t, s.p, m)
	s.wantStill(t, m)
	after := s.Open(t, instance, s.key)
	s.wantList(t, after, m)
	p, _ = provisioner.As[provisioner.Suspender](after)
	for range 2 {
		if err := p.Resume(s.ctx, m.Ref); err != nil {
			t.Fatalf("Resume: %v", err)
		}
	}
	if got := s.run(t, after, m.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("after a Resume the file holds %q, want %q", got, "one")
	}
	if err := p.Pause(s.ctx, m.Ref); err != nil {
		t.Fatalf("Pause: %v", err)
	}
	if err := after.Destroy(s.ctx, m.Ref); err != nil {
		t.Fatalf("Destroy of a paused machine: %v", err)
	}
	s.wantNothingLeft(t)
	wantErr(t, "Pause of a machine that is gone", p.Pause(s.ctx, m.Ref), provisioner.ErrNotFound)
	wantErr(t, "Resume of a machine that is gone", p.Resume(s.ctx, m.Ref), provisioner.ErrNotFound)
}

// wantStill checks that no command runs in a machine for some time.
func (s *suite) wantStill(t *testing.T, m provisioner.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	conn, err := s.p.Dial(ctx, m.Ref)
	if err != nil {
		return
	}
	defer conn.Close()
	var out strings.Builder
	if _, err := conn.Run(ctx, guest.Cmd{Args: []string{"echo", "on"}}, guest.Streams{Stdout: &out}); err == nil {
		t.Errorf("a command ran in a paused machine: %q", out.String())
	}
}

// switchingRefused lets others have a go at a machine: with another key, another
// name, forged papers.
func switchingRefused(t *testing.T, s *suite) {
	m := s.create(t, s.p)
	s.run(t, s.p, m.Ref, "echo one > /tmp/mark")
	refused := func(p provisioner.Provisioner) {
		t.Helper()
		if p, ok := provisioner.As[provisioner.Stopper](p); ok {
			wantErr(t, "Stop", p.Stop(s.ctx, m.Ref), provisioner.ErrNotOurs)
			wantErr(t, "Start", p.Start(s.ctx, m.Ref), provisioner.ErrNotOurs)
		}
		if p, ok := provisioner.As[provisioner.Suspender](p); ok {
			wantErr(t, "Pause", p.Pause(s.ctx, m.Ref), provisioner.ErrNotOurs)
			wantErr(t, "Resume", p.Resume(s.ctx, m.Ref), provisioner.ErrNotOurs)
		}
	}
	refused(s.Open(t, instance, Key(t, 2)))
	refused(s.Open(t, "inst-2", s.key))
	genuine, err := s.key.Seal(m.Papers)
	if err != nil {
		t.Fatal(err)
	}
	s.SetPapers(t, m.Ref, strings.Replace(genuine, `"local:1000"`, `"local:1001"`, 1))
	refused(s.p)
	s.SetPapers(t, m.Ref, genuine)
	s.wantList(t, s.p, m)
	if got := s.run(t, s.p, m.Ref, "cat /tmp/mark"); got != "one" {
		t.Errorf("the machine's file holds %q, want %q", got, "one")
	}
}
