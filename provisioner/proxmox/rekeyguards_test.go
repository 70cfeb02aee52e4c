package proxmox

import (
	"errors"
	"maps"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// A draft has no guest that could be handed over, and is no sandbox's machine yet.
func TestRekeyOfADraft(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	h := l.draft(testSpec(1))
	before := l.configs()
	ref := provisioner.Ref{Sandbox: "sb-1", Handle: handle{id: h.id}.String()}
	if _, err := l.provisioner().Rekey(t.Context(), ref, claimed(), nil); !errors.Is(err, provisioner.ErrInvalid) {
		t.Errorf("Rekey: %v", err)
	}
	if diff := cmp.Diff(before, l.configs()); diff != "" {
		t.Errorf("it was touched (-before +after):\n%s", diff)
	}
}

// A guest whose switch was never armed is not taken for one whose is: it is armed
// after it was handed over. One whose was armed by the way is not armed again.
func TestRekeyKnowsWhatItArmed(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	m, conn := l.ready(p)
	p.PowerOff = 10 * time.Minute // from now on
	rekeyed(t, p, m, claimed(), conn)
	eventually(t, "the switch is armed", func() bool { _, d := l.armedFor(m); return d > 0 })
	eventually(t, "it is known", func() bool { return !p.arms(m.Sandbox) })
	id, _ := l.armedFor(m)
	again := claimed()
	again.Papers.End = again.Papers.End.Add(time.Minute)
	rekeyed(t, p, m, again, nil)
	p.switches.mu.Lock()
	follows := p.switches.all[m.Sandbox].follows()
	p.switches.mu.Unlock()
	if now, _ := l.armedFor(m); now == id || !follows {
		t.Errorf("the switch was %s and is %s; that it follows the papers is known: %v", id, now, follows)
	}
}

// Each re-key gives a guest other random bytes, to stir in now and to keep for its
// next boot.
func TestRekeyIsRandom(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	m, conn := l.ready(p)
	seeds := []string{"var/lib/systemd/random-seed", "var/lib/seedrng/seed.credit"}
	if _, err := says(t, conn, "mkdir -p /var/lib/systemd /var/lib/seedrng; echo >/var/lib/seedrng/seed.credit"); err != nil {
		t.Fatal(err)
	}
	kept := map[string]string{}
	for range 2 {
		before := maps.Clone(kept)
		rekeyed(t, p, m, claimed(), nil)
		for _, file := range seeds {
			kept[file] = l.file(m, file)
			if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(kept[file]) || kept[file] == before[file] {
				t.Errorf("%s held %q and holds %q", file, before[file], kept[file])
			}
		}
	}
	all := map[string]bool{}
	for range 2 {
		s, err := p.self(claimed(), "root")
		if err != nil {
			t.Fatal(err)
		}
		all[string(s.Random.Reveal())], all[string(s.Saved.Reveal())], all[string(make([]byte, 32))] = true, true, true
	}
	if len(all) != 5 {
		t.Errorf("of the random bytes of two re-keys some are the same, or zero")
	}
}
