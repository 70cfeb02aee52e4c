package proxmox

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// eventually waits for what must come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it has not come about", what)
		}
	}
}

// armedFor is for how long the guest of a machine was armed, zero if it was not, and
// by which id.
func (l *sshLab) armedFor(m provisioner.Machine) (id string, d time.Duration) {
	var seconds int64
	var end string
	if n, _ := fmt.Sscan(l.file(m, "var/lib/agentlab/armed"), &id, &seconds, &end); n != 3 || end != "end" {
		return "", 0
	}
	return id, time.Duration(seconds) * time.Second
}

// arms reports whether a switch is being armed.
func (p *Provisioner) arms(sandbox string) bool {
	p.switches.mu.Lock()
	defer p.switches.mu.Unlock()
	return p.switches.all[sandbox] == nil || p.switches.all[sandbox].busy
}

// The switch of a guest is armed soon after its start, and follows the papers of
// its machine, whoever has changed them; a new process arms it again. Nobody waits
// for that.
func TestSwitchFollowsPapers(t *testing.T) {
	for _, channel := range []string{channelAgent, channelSSH} {
		t.Run(channel, func(t *testing.T) {
			l := newSSHLab(t)
			open := func() *Provisioner {
				p := l.provisioner(channel)
				if channel == channelAgent {
					p.User = nil
				}
				p.PowerOff, p.Log = 10*time.Minute, slog.New(slog.NewTextHandler(t.Output(), nil))
				return p
			}
			p := open()
			m, conn := l.ready(p)
			until := func(what string, end time.Time) {
				t.Helper()
				eventually(t, what, func() bool {
					_, d := l.armedFor(m)
					return (d - p.PowerOff - time.Until(end)).Abs() < 5*time.Minute // it may be a while since it was told
				})
			}
			until("made", m.Papers.End)
			later := m.Papers
			later.End = later.End.Add(30 * time.Minute)
			if err := p.Relabel(t.Context(), m.Ref, later); err != nil {
				t.Fatal(err)
			}
			until("extended", later.End)
			id, _ := l.armedFor(m)
			p = open()
			if _, err := p.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "found by a new process", func() bool { now, _ := l.armedFor(m); return now != id })
			until("still extended", later.End)
			eventually(t, "settled", func() bool { return !p.arms(m.Sandbox) })
			if _, err := p.List(t.Context()); err != nil || p.arms(m.Sandbox) {
				t.Errorf("it is armed again though nothing has changed; %v", err)
			}
			id, _ = l.armedFor(m)
			p.switches.mu.Lock()
			a := p.switches.all[m.Sandbox]
			a.wall = a.wall.Add(time.Hour) // the host was an hour ahead then
			p.switches.mu.Unlock()
			if _, err := p.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the host's clock was set back", func() bool { now, _ := l.armedFor(m); return now != id })
			eventually(t, "settled again", func() bool { return !p.arms(m.Sandbox) })
			spec := claimed()
			spec.Papers.End = later.End.Add(20 * time.Minute)
			rekeyed(t, p, m, spec, conn)
			if _, d := l.armedFor(m); d <= time.Until(later.End)+p.PowerOff {
				t.Errorf("it was handed over, and is armed for %v", d)
			}
		})
	}
}

// What nobody came for is off some time after its end, and seen to be.
func TestSwitchPowersOff(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	p.PowerOff = time.Second
	spec := testSpec(1)
	spec.Papers.End = time.Now()
	m, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	dialled(t, p, m)
	eventually(t, "it powers itself off", func() bool {
		list, err := p.List(t.Context())
		return err == nil && len(list) == 1 && !list[0].Running
	})
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	l.wantNothingLeft(t)
}

// Of a machine that is destroyed while machines are listed no switch is kept.
func TestNoSwitchOfWhatIsGone(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	p.PowerOff = time.Minute
	m, _ := makeOne(t, p, 1)
	inv, err := p.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := p.survey(t.Context(), inv, 0)
	if err != nil || len(found) != 1 {
		t.Fatalf("survey: %+v, %v", found, err)
	}
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	if _, err := p.powered(t.Context(), inv, found); err != nil {
		t.Fatal(err)
	}
	p.switches.mu.Lock()
	defer p.switches.mu.Unlock()
	if len(p.switches.all) != 0 {
		t.Errorf("switches are kept: %v", p.switches.all)
	}
}
