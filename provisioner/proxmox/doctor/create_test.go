package doctor_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/doctor"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// A machine that can't be made, or that does not answer, is not left behind.
func TestCreateFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fail func(r *http.Request) *pvetest.Fault
		want string
	}{
		"no-start": {func(r *http.Request) *pvetest.Fault {
			if strings.HasSuffix(r.URL.Path, "/status/start") {
				return &pvetest.Fault{Status: 500, Reason: "no memory"}
			}
			return nil
		}, "no memory"},
		"no-agent": {func(r *http.Request) *pvetest.Fault {
			if strings.HasSuffix(r.URL.Path, "/agent/ping") {
				return &pvetest.Fault{Status: 500, Reason: "QEMU guest agent is not running"}
			}
			return nil
		}, "wait for guest to boot"},
		"no-command": {func(r *http.Request) *pvetest.Fault {
			if strings.HasSuffix(r.URL.Path, "/agent/exec") {
				return &pvetest.Fault{Status: 500, Reason: "Agent error: no"}
			}
			return nil
		}, "Agent error"},
	} {
		t.Run(name, func(t *testing.T) {
			guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
			l := newLab(t, &pvetest.Server{NewGuest: guests.New, Fail: tt.fail})
			s := l.settings()
			s.create = true
			d := s.doctor(t)
			if name == "no-agent" {
				d.Patience = 3 * time.Second
			}
			r := find(t, d.Check(t.Context()), "create debian")
			if r.Status != doctor.Failed || !strings.Contains(r.Detail, tt.want) || r.Do == "" {
				t.Errorf("result %+v, want %q", r, tt.want)
			}
			l.noMachines(t)
		})
	}
}

// A datacenter that does not let the token tag machines is seen at the latest
// when one is made, and what is said mends it.
func TestTagsRefused(t *testing.T) {
	guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
	l := newLab(t, &pvetest.Server{NewGuest: guests.New})
	l.Edit(func(c *pvetest.Cluster) { c.Options["user-tag-access"] = "user-allow=existing" })
	s := l.settings()
	s.create = true
	results := s.check(t)
	r := find(t, results, "create debian")
	if r.Status != doctor.Failed || !strings.Contains(r.Detail, "for modifying tag") || len(r.Run) != 1 || !strings.Contains(r.Do, "registered-tags") {
		t.Errorf("result %+v", r)
	}
	if r := find(t, results, "tags"); r.Status != doctor.OK || !strings.Contains(r.Detail, "can't see") {
		t.Errorf("result %+v", r)
	}
	l.noMachines(t)
	l.shell(t, r.Run)
	if bad := unlike(s.check(t)); bad != nil {
		t.Errorf("after it was mended: %q", bad)
	}
	l.noMachines(t)
}

// An interrupted doctor destroys its machine first.
func TestCreateInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
	l := newLab(t, &pvetest.Server{NewGuest: guests.New, Fail: func(r *http.Request) *pvetest.Fault {
		if strings.HasSuffix(r.URL.Path, "/agent/exec") {
			cancel()
		}
		return nil
	}})
	s := l.settings()
	s.create = true
	r := find(t, s.doctor(t).Check(ctx), "create debian")
	if r.Status != doctor.Failed || !strings.Contains(r.Detail, "canceled") {
		t.Errorf("result %+v", r)
	}
	l.noMachines(t)
}

// No machine is made where a check says that it can't work.
func TestCreateIsNotTriedInVain(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.Edit(func(c *pvetest.Cluster) { c.VMs[9000].Config["agent"] = "0" })
	s := l.settings()
	s.create = true
	if r := find(t, s.check(t), "create"); r.Status != doctor.Failed || r.Detail != "not tried" {
		t.Errorf("result %+v", r)
	}
}

// The times are those of the steps.
func TestTimes(t *testing.T) {
	guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
	clone, start := 300*time.Millisecond, 200*time.Millisecond
	l := newLab(t, &pvetest.Server{NewGuest: guests.New, TaskTime: map[string]time.Duration{"qmclone": clone, "qmstart": start}})
	s := l.settings()
	s.create = true
	r := find(t, s.check(t), "create debian")
	var names []string
	least := map[string]time.Duration{"clone": clone, "start": start}
	for _, step := range r.Steps {
		names = append(names, step.Name)
		if took := time.Duration(step.Seconds * float64(time.Second)); took < least[step.Name] {
			t.Errorf("%s took %v, want at least %v", step.Name, took, least[step.Name])
		}
	}
	if diff := cmp.Diff([]string{"choose", "clone", "configure", "start", "boot", "command", "destroy"}, names); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(r.Detail, "ready after ") {
		t.Errorf("detail %q", r.Detail)
	}
}

// A try for an owner makes one machine and leaves nothing, also of what an
// earlier one that was killed has left. Others' machines stay.
func TestTry(t *testing.T) {
	guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
	l := newLab(t, &pvetest.Server{NewGuest: guests.New})
	create := func(owner string) {
		t.Helper()
		now := time.Now().Truncate(time.Second).UTC()
		b := l.settings().doctor(t).Backend
		_, err := b.Create(t.Context(), provisioner.Spec{Hostname: "box", Root: "debian", Network: "none", Papers: provisioner.Papers{
			Instance: b.Instance, Sandbox: "left-by-" + owner, Owner: owner, Profile: "p", Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour),
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("template")
	create("somebody")
	d := l.settings().doctor(t)
	if r := d.Try(t.Context(), "debian", "template"); r.Status != doctor.OK {
		t.Errorf("result %+v", r)
	}
	list, err := l.settings().doctor(t).Backend.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Papers.Owner != "somebody" {
		t.Errorf("machines %+v, %v", list, err)
	}
}
