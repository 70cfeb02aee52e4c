package proxmox

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// powers are what switches a machine, with the word that its call ends with.
func powers(p *Provisioner) map[string]func(context.Context, provisioner.Ref) error {
	return map[string]func(context.Context, provisioner.Ref) error{"shutdown": p.Stop, "start": p.Start, "suspend": p.Pause, "resume": p.Resume}
}

// switches counts the calls since the last onCall that switch a machine.
func (l *lab) switches() map[string]int {
	calls := l.counted()
	maps.DeleteFunc(calls, func(name string, _ int) bool { return name[:4] != "POST" })
	return calls
}

// The machine is reached again by the same keys and has its files, by each channel
// and by a process that knows nothing of before.
func TestStopAndStart(t *testing.T) {
	for _, channel := range []string{channelSSH, channelAgent} {
		t.Run(channel, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.provisioner(channel)
			if channel == channelAgent {
				p = l.byAgent()
			}
			m := made(t, p, 1)
			conn := dialled(t, p, m)
			if _, err := says(t, conn, "echo kept >$HOME/kept"); err != nil {
				t.Fatal(err)
			}
			l.onCall(nil)
			for range 2 {
				if err := p.Stop(t.Context(), m.Ref); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := says(t, conn, "true"); !errors.Is(err, guest.ErrUnreachable) {
				t.Errorf("a machine that is off: %v", err)
			}
			l.wantRunning(t, p, false)
			after := l.provisioner(channel)
			after.User = p.User
			for range 2 {
				if err := after.Start(t.Context(), m.Ref); err != nil {
					t.Fatal(err)
				}
			}
			calls := l.switches()
			delete(calls, "POST exec") // of what says runs
			if diff := cmp.Diff(map[string]int{"POST shutdown": 1, "POST start": 1}, calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			l.wantRunning(t, after, true)
			for name, p := range map[string]*Provisioner{"the same": p, "a new": after} {
				if out, err := says(t, dialled(t, p, m), "cat $HOME/kept"); err != nil || out != "kept\n" {
					t.Errorf("%s process: the guest says %q, %v", name, out, err)
				}
			}
		})
	}
}

// wantRunning checks what List says of the only machine.
func (l *lab) wantRunning(t *testing.T, p *Provisioner, running bool) {
	t.Helper()
	if list, err := p.List(t.Context()); err != nil || len(list) != 1 || list[0].Running != running {
		t.Errorf("List: %+v, %v; want it running: %v", list, err, running)
	}
}

// What the inventory says of a machine is up to 10 s old. What we have done since
// is known, also if its papers were changed in between.
func TestListAfterSwitching(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	m, _ := makeOne(t, p, 1)
	var old *inventory
	want := func(running bool) {
		t.Helper()
		list, err := p.powered(t.Context(), old, p.ours(old))
		if err != nil || len(list) != 1 || list[0].Running != running {
			t.Errorf("by an old look: %+v, %v; want it running: %v", list, err, running)
		}
		l.wantRunning(t, p, running)
	}
	for _, running := range []bool{false, true, false} {
		change := p.Stop
		if running {
			change = p.Start
		}
		var err error
		if old, err = p.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := change(t.Context(), m.Ref); err != nil {
			t.Fatal(err)
		}
		want(running)
		papers := m.Papers
		papers.Stopped = !running
		if err := p.Relabel(t.Context(), m.Ref, papers); err != nil {
			t.Fatal(err)
		}
		want(running)
	}
}

func TestPauseAndResume(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	status := func() (s string) {
		l.srv.Edit(func(c *pvetest.Cluster) { s = c.VMs[id].QMPStatus })
		return s
	}
	l.onCall(nil)
	for range 2 {
		if err := p.Pause(t.Context(), m.Ref); err != nil || status() != "paused" {
			t.Errorf("Pause: %v, it is %s", err, status())
		}
	}
	l.wantRunning(t, p, true)
	for range 2 {
		if err := p.Resume(t.Context(), m.Ref); err != nil || status() != "running" {
			t.Errorf("Resume: %v, it is %s", err, status())
		}
	}
	if diff := cmp.Diff(map[string]int{"POST suspend": 1, "POST resume": 1}, l.switches()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if err := errors.Join(p.Pause(t.Context(), m.Ref), p.Stop(t.Context(), m.Ref)); err != nil { // a paused one, too
		t.Fatal(err)
	}
	for name, change := range map[string]func(context.Context, provisioner.Ref) error{"Pause": p.Pause, "Resume": p.Resume} {
		if err := change(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) {
			t.Errorf("%s of a machine that is off: %v", name, err)
		}
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Error(err)
	}
	l.wantNothingLeft(t)
}

func TestResize(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	papers := m.Papers
	papers.MemoryMB, papers.Stopped = 512, true
	bigger := provisioner.Size{Cores: 2, MemoryMB: 512, DiskMB: 4096}
	before := l.configs()
	if err := p.Resize(t.Context(), m.Ref, papers, bigger); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("Resize of a machine that runs: %v", err)
	}
	l.must(p.Stop(t.Context(), m.Ref))
	other := papers
	other.Sandbox = "sb-2"
	if err := p.Resize(t.Context(), m.Ref, other, bigger); !errors.Is(err, provisioner.ErrInvalid) {
		t.Errorf("Resize with another's papers: %v", err)
	}
	before[id]["running"] = "false"
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
	l.onCall(nil)
	for range 2 {
		l.must(p.Resize(t.Context(), m.Ref, papers, bigger))
	}
	if n := l.counted()["PUT resize"]; n != 1 {
		t.Errorf("its disk was made bigger %d times", n)
	}
	cfg := l.configs()[id]
	if cfg["cores"] != "2" || cfg["memory"] != "512" || !strings.HasSuffix(cfg["scsi0"], ",size=4G") {
		t.Errorf("its config is %v", cfg)
	}
	m.Papers, m.Running = papers, false
	list, err := l.provisioner().List(t.Context())
	if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
		t.Errorf("List: %v\n%s", err, diff)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["vcpus"], c.VMs[id].Config["balloon"] = "2", "512" })
	l.must(p.Resize(t.Context(), m.Ref, papers, provisioner.Size{Cores: 1})) // the rest stays
	if cfg := l.configs()[id]; cfg["cores"] != "1" || cfg["vcpus"] != "1" || cfg["memory"] != "512" || cfg["balloon"] != "512" {
		t.Errorf("its config is %v", cfg)
	}
	l.must(p.Resize(t.Context(), m.Ref, papers, provisioner.Size{MemoryMB: 256}))
	if cfg := l.configs()[id]; cfg["memory"] != "256" || cfg["balloon"] != "256" {
		t.Errorf("its config is %v", cfg)
	}
	l.must(p.Start(t.Context(), m.Ref))
}

// While the disk grows the VMID goes to somebody else's.
func TestResizeLooksAgain(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, id := makeOne(t, p, 1)
	l.must(p.Stop(t.Context(), m.Ref))
	foreign := func(when func(call string) bool) error {
		l.onCall(func(r *http.Request) *pvetest.Fault {
			if when(callName(r)) {
				l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = "mine" })
			}
			return nil
		})
		return p.Resize(t.Context(), m.Ref, m.Papers, provisioner.Size{Cores: 2, DiskMB: 4096})
	}
	ours, size := l.configs()[id]["description"], func() string { return l.configs()[id]["scsi0"] }
	before := size()
	err := foreign(func(call string) bool { return call == "PUT resize" })
	if err == nil || !strings.Contains(err.Error(), "checksum mismatch") || size() != before {
		t.Errorf("Resize: %v, the disk is %s, was %s", err, size(), before)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = ours })
	grown := false
	err = foreign(func(call string) bool {
		grown = grown || call == "PUT resize"
		return grown && call == "GET config"
	})
	if !errors.Is(err, provisioner.ErrNotOurs) || l.configs()[id]["description"] != "mine" || l.configs()[id]["cores"] != "1" {
		t.Errorf("Resize: %v, its config is %v", err, l.configs()[id])
	}
}

// What isn't ours, or isn't a machine yet, is not switched.
func TestOthersAreNotSwitched(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(l *lab, p *Provisioner, id int, m *provisioner.Machine) *Provisioner
		want  error
	}{
		"papers-gone": {func(l *lab, p *Provisioner, id int, _ *provisioner.Machine) *Provisioner {
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = "mine" })
			return p
		}, provisioner.ErrNotOurs},
		"tag-gone": {func(l *lab, p *Provisioner, id int, _ *provisioner.Machine) *Provisioner {
			l.srv.Edit(func(c *pvetest.Cluster) { delete(c.VMs[id].Config, "tags") })
			return p
		}, provisioner.ErrNotOurs},
		"another-sandbox": {func(_ *lab, p *Provisioner, _ int, m *provisioner.Machine) *Provisioner {
			m.Sandbox = "sb-2"
			return p
		}, provisioner.ErrNotOurs},
		"another-instance": {func(l *lab, p *Provisioner, _ int, _ *provisioner.Machine) *Provisioner {
			return l.open("inst-2", p.Key)
		}, provisioner.ErrNotOurs},
		"draft": {func(l *lab, p *Provisioner, id int, m *provisioner.Machine) *Provisioner {
			text, err := p.seal(id, draft, m.Papers)
			if err != nil {
				l.t.Fatal(err)
			}
			l.srv.Edit(func(c *pvetest.Cluster) { c.VMs[id].Config["description"] = text })
			return p
		}, provisioner.ErrInvalid},
		"gone": {func(l *lab, p *Provisioner, id int, _ *provisioner.Machine) *Provisioner {
			l.srv.Edit(func(c *pvetest.Cluster) {
				delete(c.VMs, id)
				delete(c.Pools[testPool].VMs, id)
			})
			return p
		}, provisioner.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			p := l.provisioner()
			m, id := makeOne(t, p, 1)
			p = tt.spoil(l, p, id, &m)
			l.onCall(nil)
			for word, change := range powers(p) {
				if err := change(t.Context(), m.Ref); !errors.Is(err, tt.want) {
					t.Errorf("%s: %v, want %v", word, err, tt.want)
				}
			}
			m.Papers.Sandbox, m.Papers.Instance = m.Sandbox, p.Instance
			if err := p.Resize(t.Context(), m.Ref, m.Papers, provisioner.Size{Cores: 2}); !errors.Is(err, tt.want) {
				t.Errorf("resize: %v, want %v", err, tt.want)
			}
			if calls := l.switches(); len(calls) > 0 {
				t.Errorf("calls: %v", calls)
			}
		})
	}
}

// An answer that is lost does not make one call two, and what was not done is told.
func TestSwitchingWithLostAnswers(t *testing.T) {
	for word := range powers(nil) {
		for _, done := range []bool{false, true} {
			t.Run(word+map[bool]string{false: "-before", true: "-after"}[done], func(t *testing.T) {
				l := newLab(t, &pvetest.Server{})
				p := l.provisioner()
				m, id := makeOne(t, p, 1)
				switch word {
				case "start":
					l.must(p.Stop(t.Context(), m.Ref))
				case "resume":
					l.must(p.Pause(t.Context(), m.Ref))
				}
				l.onCall(func(r *http.Request) *pvetest.Fault {
					if callName(r) == "POST "+word {
						return &pvetest.Fault{Drop: true, After: done}
					}
					return nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if !done && word == "shutdown" { // it may be under way for as long as the caller waits
					ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
				}
				defer cancel()
				err := powers(p)[word](ctx, m.Ref)
				if done != (err == nil) {
					t.Errorf("%s: %v", word, err)
				}
				running, paused := false, false
				l.srv.Edit(func(c *pvetest.Cluster) { running, paused = c.VMs[id].Running, c.VMs[id].QMPStatus == "paused" })
				want := map[string]bool{"shutdown": !running, "start": running, "suspend": paused, "resume": !paused}[word]
				if want != done {
					t.Errorf("running %v, paused %v", running, paused)
				}
			})
		}
	}
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// A guest whose switch was armed is told again when it has booted: what was armed
// ended with its last boot.
func TestSwitchIsArmedAfterAStart(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	p.PowerOff = 10 * time.Minute
	m, _ := l.ready(p)
	eventually(t, "the switch is armed", func() bool { id, _ := l.armedFor(m); return id != "" && !p.arms(m.Sandbox) })
	before, _ := l.armedFor(m)
	l.must(p.Stop(t.Context(), m.Ref))
	papers := m.Papers
	papers.End = papers.End.Add(time.Minute)
	l.must(p.Relabel(t.Context(), m.Ref, papers)) // which can arm nothing
	p.switches.mu.Lock()
	known := p.switches.all[m.Sandbox]
	p.switches.mu.Unlock()
	if known != nil {
		t.Errorf("the switch of a machine that is off: %+v", known)
	}
	l.must(p.Start(t.Context(), m.Ref))
	dialled(t, p, m)
	eventually(t, "the switch is armed anew", func() bool { id, _ := l.armedFor(m); return id != "" && id != before })
}
