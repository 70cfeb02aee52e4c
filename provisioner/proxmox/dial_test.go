package proxmox

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Dial waits for the guest to boot; it looks seldom, and from the second guest
// of a profile on not before it can be up.
func TestDialLearnsHowLongBootingTakes(t *testing.T) {
	l := newLab(t, &pvetest.Server{AgentDelay: func(int) time.Duration { return 400 * time.Millisecond }})
	p := l.provisioner()
	pings := func(n int) int {
		m, err := p.Create(t.Context(), testSpec(n))
		if err != nil {
			t.Fatal(err)
		}
		l.onCall(nil)
		conn, err := p.Dial(t.Context(), m.Ref)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		return l.counted()["POST ping"]
	}
	if n := pings(1); n > 4 {
		t.Errorf("%d pings for the first guest", n)
	}
	if n := pings(2); n > 3 {
		t.Errorf("%d pings for the second guest", n)
	}
	if soonest, _ := p.prober.span("p"); soonest < 300*time.Millisecond {
		t.Errorf("guests of the profile are looked for after %v", soonest)
	}
}

func TestDialGivesUpWithItsCaller(t *testing.T) {
	l := newLab(t, &pvetest.Server{AgentDelay: func(int) time.Duration { return -1 }})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST ping" {
			cancel()
		}
		return nil
	})
	if _, err := p.Dial(ctx, m.Ref); !errors.Is(err, guest.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
}

// A change by somebody else between our look and our change is seen, and papers
// that are not ours any more stay as they are.
func TestRelabelIsCompareAndSwap(t *testing.T) {
	for name, stolen := range map[string]bool{"changed": false, "stolen": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			p := l.provisioner()
			m, err := p.Create(t.Context(), testSpec(1))
			if err != nil {
				t.Fatal(err)
			}
			id := handleID(t, m)
			puts := 0
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if callName(r) != "PUT config" {
					return nil
				}
				if puts++; puts == 1 {
					edit(l, id, stolen)
				}
				return nil
			})
			m.Papers.End = m.Papers.End.Add(time.Minute)
			err = p.Relabel(t.Context(), m.Ref, m.Papers)
			l.onCall(nil)
			if stolen {
				if !errors.Is(err, provisioner.ErrNotOurs) || l.configs()[id]["description"] != "mine" {
					t.Errorf("Relabel: %v, %q", err, l.configs()[id]["description"])
				}
				return
			}
			list, lerr := p.List(t.Context())
			if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil || lerr != nil || puts != 2 {
				t.Errorf("after %d changes: %v, %v\n%s", puts, err, lerr, diff)
			}
		})
	}
}

func edit(l *lab, id int, stolen bool) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.VMs[id].Config["cores"] = "2"
		if stolen {
			c.VMs[id].Config["description"] = "mine"
		}
	})
}
