package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// claimed is the spec by which a machine that was made as testSpec(1) is claimed.
func claimed() provisioner.Spec {
	spec := testSpec(1)
	spec.Hostname, spec.Papers.Owner, spec.Papers.Name, spec.Papers.Keys = "claimed", "local:1001", "mine", 1
	return spec
}

// rekeyed re-keys a machine.
func rekeyed(t *testing.T, p *Provisioner, m provisioner.Machine, spec provisioner.Spec, conn guest.Conn) guest.Conn {
	t.Helper()
	next, err := p.Rekey(t.Context(), m.Ref, spec, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// What a Rekey asks of Proxmox: the config twice, and the guest once.
func TestRekeyCalls(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	m, conn := l.ready(p)
	l.onCall(nil)
	rekeyed(t, p, m, claimed(), conn)
	got := l.counted()
	if got["GET exec-status"] == 0 {
		t.Error("nobody asked how it ended")
	}
	delete(got, "GET exec-status") // as often as it takes
	if diff := cmp.Diff(map[string]int{"GET config": 1, "PUT config": 1, "POST exec": 1}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// ready returns a machine whose guest was used by its agent, as one of a pool was.
func (l *sshLab) ready(p *Provisioner) (provisioner.Machine, guest.Conn) {
	l.t.Helper()
	m := made(l.t, p, 1)
	conn := dialled(l.t, p, m)
	if _, err := says(l.t, conn, "true"); err != nil {
		l.t.Fatal(err)
	}
	return m, conn
}

// byAgent is a provisioner whose guests are used by their agent, which may be any user's.
func (l *sshLab) byAgent() *Provisioner {
	p := l.provisioner(channelAgent)
	p.User = nil
	return p
}

// file reads one in the guest of a machine, empty if there is none.
func (l *sshLab) file(m provisioner.Machine, path string) string {
	text, _ := os.ReadFile(filepath.Join(l.dir, strconv.Itoa(handleID(l.t, m)), "root", path))
	return string(text)
}

// wantClaimed checks that a machine is what it was claimed as, for good.
func (l *sshLab) wantClaimed(p *Provisioner, m provisioner.Machine, conn guest.Conn) {
	l.t.Helper()
	if out, err := says(l.t, conn, "hostname; wc -c </etc/machine-id; ls -d /var/lib/agentlab/tmp.* | wc -l"); err != nil || out != "claimed\n33\n1\n" {
		l.t.Errorf("the guest says %q, %v", out, err)
	}
	m.Papers = claimed().Papers
	m.Papers.Created, m.Papers.End, m.Papers.MaxEnd = time.Time{}, time.Time{}, time.Time{}
	list, err := p.List(l.t.Context())
	for i := range list {
		list[i].Papers.Created, list[i].Papers.End, list[i].Papers.MaxEnd = time.Time{}, time.Time{}, time.Time{}
	}
	if diff := cmp.Diff([]provisioner.Machine{m}, list); diff != "" || err != nil {
		l.t.Errorf("List: %v\n%s", err, diff)
	}
	if name := l.configs()[handleID(l.t, m)]["name"]; name != "claimed" {
		l.t.Errorf("the machine is called %q", name)
	}
}

// Whatever call of a Rekey goes wrong once, that or the next Rekey does it.
func TestOneFaultOfRekey(t *testing.T) {
	for _, call := range []string{"GET config", "PUT config", "POST exec", "GET exec-status"} {
		for kind, fault := range map[string]pvetest.Fault{"596": {Status: 596, Reason: "Broken pipe"}, "dropped": {Drop: true}} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s-%s-after-%v", strings.ReplaceAll(call, " ", "-"), kind, after), func(t *testing.T) {
					l := newSSHLab(t)
					p := l.byAgent()
					m, conn := l.ready(p)
					fault := fault
					fault.After = after
					l.onCall(once(call, &fault))
					next, err := p.Rekey(t.Context(), m.Ref, claimed(), conn)
					if err != nil {
						next = rekeyed(t, p, m, claimed(), nil)
					}
					defer next.Close()
					l.wantClaimed(p, m, next)
				})
			}
		}
	}
}

// A process dies before or after the n-th call of a Rekey took effect. The next
// one does it to the end, and what it has made can be destroyed.
func TestCrashAtEveryCallOfRekey(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n, over := int32(1), false; !over; n++ {
			t.Run(fmt.Sprintf("after-%v-%d", after, n), func(t *testing.T) { over = crashRekey(t, n, after) })
			if n > 20 {
				t.Fatal("Rekey makes too many calls")
			}
		}
	}
}

// crashRekey reports whether Rekey needed fewer than n calls.
func crashRekey(t *testing.T, n int32, after bool) (over bool) {
	l := newSSHLab(t)
	p := l.byAgent()
	m, conn := l.ready(p)
	ctx, die := context.WithCancel(t.Context())
	defer die()
	var calls atomic.Int32
	l.onCall(func(*http.Request) *pvetest.Fault {
		c := calls.Add(1)
		if c < n {
			return nil
		}
		die()
		return &pvetest.Fault{Drop: true, After: after && c == n}
	})
	_, err := p.Rekey(ctx, m.Ref, claimed(), conn)
	over = err == nil && calls.Load() < n
	l.onCall(nil)
	p = l.byAgent()
	if err := p.Destroy(t.Context(), provisioner.Ref{Sandbox: "sb-another", Handle: m.Handle}); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("Destroy for another sandbox: %v", err)
	}
	l.wantClaimed(p, m, rekeyed(t, p, m, claimed(), nil))
	if err := p.Destroy(t.Context(), m.Ref); err != nil {
		t.Fatal(err)
	}
	l.wantNothingLeft(t)
	return over
}

// A machine that becomes another's while it is re-keyed stays that: at each moment
// it is looked at who it belongs to, or its guest says so.
func TestRekeyOfWhatIsTaken(t *testing.T) {
	for name, when := range map[string]string{"before": "GET config", "meanwhile": "PUT config", "late": "POST exec"} {
		t.Run(name, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.byAgent()
			m, conn := l.ready(p)
			id := handleID(t, m)
			done := false
			l.onCall(func(r *http.Request) *pvetest.Fault {
				if done || callName(r) != when {
					return nil
				}
				done = true
				edit(l.lab, id, true)
				if when == "POST exec" { // and its guest is another, too
					if err := os.RemoveAll(filepath.Join(l.dir, strconv.Itoa(id), "root/var/lib/agentlab")); err != nil {
						t.Error(err)
					}
				}
				return nil
			})
			if _, err := p.Rekey(t.Context(), m.Ref, claimed(), conn); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Rekey: %v", err)
			}
			l.onCall(nil)
			if cfg := l.configs()[id]; cfg["description"] != "mine" || when != "POST exec" && cfg["name"] != "box-1" {
				t.Errorf("its config is %v", cfg)
			}
			if l.file(m, "etc/machine-id") != "" || l.file(m, "etc/hostname") != "" {
				t.Error("its guest was re-keyed")
			}
		})
	}
}

// What a Rekey says where it can't be done.
func TestRekeyErrors(t *testing.T) {
	l := newSSHLab(t)
	p := l.byAgent()
	m, _ := l.ready(p)
	l.onCall(func(*http.Request) *pvetest.Fault { return &pvetest.Fault{Status: 595, Reason: "No route to host"} })
	if _, err := p.Rekey(t.Context(), m.Ref, claimed(), nil); !errors.Is(err, provisioner.ErrUnavailable) {
		t.Errorf("while the node is down: %v", err)
	}
	l.onCall(func(r *http.Request) *pvetest.Fault {
		if callName(r) == "POST exec" {
			return &pvetest.Fault{Status: 500, Reason: "QEMU guest agent is not running"}
		}
		return nil
	})
	if _, err := p.Rekey(t.Context(), m.Ref, claimed(), nil); !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("while the agent is down: %v", err)
	}
	l.onCall(nil)
	rekeyed(t, p, m, claimed(), nil)
}

// A guest that is used by SSH stays with it: what is done by its agent is not a use.
// Nobody who was logged in is any more.
func TestRekeyBySSH(t *testing.T) {
	for _, channel := range []string{channelSSH, channelAuto} {
		t.Run(channel, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.provisioner(channel)
			m, conn := l.ready(p)
			before := l.file(m, "etc/ssh/ssh_host_ed25519_key.pub")
			other := dialled(t, p, m)
			if _, err := says(t, other, "true"); err != nil {
				t.Fatal(err)
			}
			next := rekeyed(t, p, m, claimed(), conn)
			if _, ok := next.(*sshboot.Conn); !ok {
				t.Errorf("the channel is a %T", next)
			}
			if out, err := says(t, next, "hostname"); err != nil || out != "claimed\n" {
				t.Errorf("the guest says %q, %v", out, err)
			}
			if after := l.file(m, "etc/ssh/ssh_host_ed25519_key.pub"); after == before || after == "" {
				t.Errorf("its host key was %q and is %q", before, after)
			}
			if out, err := says(t, other, "true"); !errors.Is(err, guest.ErrUnreachable) {
				t.Errorf("who was logged in says %q, %v", out, err)
			}
			if _, ok := dialled(t, l.provisioner(channel), m).(*sshboot.Conn); !ok {
				t.Error("the next process does not use SSH")
			}
		})
	}
}
