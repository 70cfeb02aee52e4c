package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// once lets a fault happen to the first call of that name.
func once(name string, f *pvetest.Fault) func(*http.Request) *pvetest.Fault {
	done := false
	return func(r *http.Request) *pvetest.Fault {
		if done || callName(r) != name {
			return nil
		}
		done = true
		return f
	}
}

// Whatever call goes wrong once, before or after it took effect, in the end
// there is one machine, and after Destroy nothing.
func TestOneFault(t *testing.T) {
	for _, call := range []string{"GET resources", "POST clone", "GET config", "PUT config", "PUT resize", "POST start", "GET status"} {
		for kind, fault := range map[string]pvetest.Fault{"596": {Status: 596, Reason: "Broken pipe"}, "dropped": {Drop: true}} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s-%s-after-%v", strings.ReplaceAll(call, " ", "-"), kind, after), func(t *testing.T) {
					l := newLab(t, &pvetest.Server{})
					p := l.provisioner()
					fault := fault
					fault.After = after
					l.onCall(once(call, &fault))
					m, err := p.Create(t.Context(), testSpec(1))
					if err != nil {
						t.Fatal(err)
					}
					list, err := l.provisioner().List(t.Context())
					if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
						t.Errorf("List: %v\n%s", err, diff)
					}
					if err := p.Destroy(t.Context(), m.Ref); err != nil {
						t.Fatal(err)
					}
					l.wantNothingLeft(t)
				})
			}
		}
	}
}

// Whatever call of a Destroy goes wrong once, that or the next Destroy leaves nothing.
func TestOneFaultOfDestroy(t *testing.T) {
	for _, call := range []string{"GET resources", "GET config", "POST stop", "DELETE ", "GET status"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-after-%v", strings.ReplaceAll(call, " ", "-"), after), func(t *testing.T) {
				l := newLab(t, &pvetest.Server{})
				p := l.provisioner()
				m, err := p.Create(t.Context(), testSpec(1))
				if err != nil {
					t.Fatal(err)
				}
				l.onCall(once(call, &pvetest.Fault{Drop: true, After: after}))
				if err := p.Destroy(t.Context(), m.Ref); err != nil {
					if err := p.Destroy(t.Context(), m.Ref); err != nil {
						t.Fatal(err)
					}
				}
				l.wantNothingLeft(t)
			})
		}
	}
}

// A process dies before or after its n-th call took effect. The next one,
// which knows what was recorded, makes the machine, or destroys it.
func TestCrashAtEveryCall(t *testing.T) {
	for _, then := range []string{"create", "destroy"} {
		for _, after := range []bool{false, true} {
			for n, over := int32(1), false; !over; n++ {
				t.Run(fmt.Sprintf("%s-after-%v-%d", then, after, n), func(t *testing.T) {
					over = crash(t, n, after, then)
				})
				if n > 60 {
					t.Fatal("Create makes too many calls")
				}
			}
		}
	}
}

// crash reports whether Create needed fewer than n calls.
func crash(t *testing.T, n int32, after bool, then string) (over bool) {
	l := newLab(t, &pvetest.Server{})
	var calls atomic.Int32
	ctx, die := context.WithCancel(t.Context())
	l.onCall(func(*http.Request) *pvetest.Fault {
		c := calls.Add(1)
		if c < n {
			return nil
		}
		die()
		return &pvetest.Fault{Drop: true, After: after && c == n}
	})
	spec := testSpec(1)
	var recorded string
	spec.Intend = func(_ context.Context, handle string) error { recorded = handle; return nil }
	first := l.provisioner()
	first.undo = 100 * time.Millisecond // a dead process has none
	m, err := first.Create(ctx, spec)
	over = err == nil && calls.Load() < n
	l.onCall(nil)
	spec.Handle = recorded
	p := l.provisioner()
	if then == "destroy" {
		if err := p.Destroy(t.Context(), provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: recorded}); err != nil {
			t.Fatal(err)
		}
	} else {
		if m, err = p.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		list, err := p.List(t.Context())
		if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
			t.Errorf("List: %v\n%s", err, diff)
		}
		if err := p.Destroy(t.Context(), m.Ref); err != nil {
			t.Fatal(err)
		}
	}
	l.wantNothingLeft(t)
	return over
}

// A cluster that lost its quorum changes nothing and forgets nothing.
func TestLostQuorum(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	quorum := func(ok bool) { l.srv.Edit(func(c *pvetest.Cluster) { c.NoQuorum = !ok }) }
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	quorum(false)
	if _, err := p.Create(t.Context(), testSpec(2)); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("Create: %v", err)
	}
	if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("Destroy: %v", err)
	}
	list, err := p.List(t.Context())
	if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
		t.Errorf("List: %v\n%s", err, diff)
	}
	quorum(true)

	l.onCall(func(r *http.Request) *pvetest.Fault { // it is lost after the clone
		if callName(r) == "PUT config" {
			return &pvetest.Fault{Status: 500, Reason: "cluster not ready - no quorum?"}
		}
		if callName(r) == "DELETE " {
			return &pvetest.Fault{Status: 500, Reason: "cluster not ready - no quorum?"}
		}
		return nil
	})
	spec := testSpec(3)
	spec.Intend = func(_ context.Context, handle string) error { spec.Handle = handle; return nil }
	if _, err := p.Create(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "undo: delete VM") {
		t.Errorf("Create: %v", err)
	}
	l.onCall(nil)
	for _, sandbox := range []string{m.Sandbox, spec.Papers.Sandbox} {
		ref := provisioner.Ref{Sandbox: sandbox, Handle: m.Handle}
		if sandbox != m.Sandbox {
			ref.Handle = spec.Handle
		}
		if err := p.Destroy(t.Context(), ref); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	l.wantNothingLeft(t)
}

func TestStorageFull(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) { c.Storages[0].Full = true })
	if _, err := l.provisioner().Create(t.Context(), testSpec(1)); !errors.Is(err, provisioner.ErrExhausted) {
		t.Errorf("Create: %v", err)
	}
	l.wantNothingLeft(t)
}

// A token that was taken its rights sees nothing, which must not look as if
// all machines had vanished.
func TestBlindTokenDecidesNothing(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	m, err := p.Create(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.ACL = nil })
	for name, p := range map[string]*Provisioner{"same": p, "new": l.provisioner()} {
		if list, err := p.List(t.Context()); !errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), "VM.Audit on /pool/agentlab") {
			t.Errorf("%s: List %+v, %v", name, list, err)
		}
		if err := p.Destroy(t.Context(), m.Ref); !errors.Is(err, provisioner.ErrUnavailable) {
			t.Errorf("%s: Destroy: %v", name, err)
		}
	}
}
