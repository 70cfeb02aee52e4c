package sessions

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

func TestPlan(t *testing.T) {
	const patience = 5 * time.Minute
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	// A sandbox whose turn came at noon, after it had stood in line, and that lasts
	// an hour from then.
	rec := func(s State) []Sandbox {
		return []Sandbox{{ID: "sb-1", State: s, Created: noon.Add(-patience), Begun: noon, End: noon.Add(time.Hour)}}
	}
	mach := func(running bool) []provisioner.Machine {
		return []provisioner.Machine{{
			Ref: provisioner.Ref{Sandbox: "sb-1", Handle: "h"}, Running: running,
			Papers: provisioner.Papers{Sandbox: "sb-1", Created: noon, End: noon.Add(time.Hour)},
		}}
	}
	there, dead, absent := mach(true), mach(false), []provisioner.Machine(nil)
	type row struct {
		recorded []Sandbox
		seen     []provisioner.Machine
		after    time.Duration // noon
		want     string
	}
	rows := map[string]row{
		"orphan-in-time":        {nil, there, time.Minute, "adopt READY"},
		"orphan-half-made":      {nil, dead, time.Minute, "adopt REQUESTED"},
		"orphan-stopped":        {nil, dead, patience, "adopt STOPPED"},
		"orphan-past-end":       {nil, there, time.Hour, "remove READY"},
		"orphan-dead-past-end":  {nil, dead, time.Hour, "remove READY"},
		"destroyed-there":       {rec(Destroyed), there, time.Minute, "remove DESTROYED"},
		"destroyed-there-later": {rec(Destroyed), there, time.Hour, "remove DESTROYED"},
		"destroyed-absent":      {rec(Destroyed), absent, time.Hour, ""},
		"nothing":               {nil, nil, 0, ""},
		"stopped-dead":          {rec(Stopped), dead, time.Minute, ""},
		"stopped-there":         {rec(Stopped), there, time.Minute, "wake STOPPED doubt"},
	}
	// What can be started again is not lost when it is off.
	for _, s := range []State{Ready, Running, Suspended} {
		rows[fmt.Sprintf("%s-dead", s)] = row{rec(s), dead, time.Minute, "halt " + string(s) + " doubt"}
		rows[fmt.Sprintf("no-restart-%s-dead", s)] = row{rec(s), dead, time.Minute, "fail " + string(s) + " doubt"}
		member := rec(s)
		member[0].Owner = PoolOwner("p")
		rows[fmt.Sprintf("member-%s-dead", s)] = row{member, dead, time.Minute, "fail " + string(s) + " doubt"}
	}
	off := mach(false)
	off[0].Papers.Stopped = true
	rows["orphan-stopped-young"] = row{nil, off, time.Minute, "adopt STOPPED"}
	// What was begun goes on, whether it was done or not.
	for s, do := range map[State]string{Stopping: "stop", Starting: "start"} {
		rows[fmt.Sprintf("%s-there", s)] = row{rec(s), there, time.Minute, do + " " + string(s)}
		rows[fmt.Sprintf("%s-dead", s)] = row{rec(s), dead, time.Minute, do + " " + string(s)}
		rows[fmt.Sprintf("%s-absent", s)] = row{rec(s), absent, time.Minute, "fail " + string(s) + " doubt"}
	}
	for _, s := range []State{Requested, Provisioning, Booting} {
		rows[fmt.Sprintf("%s-young-there", s)] = row{rec(s), there, patience - 1, "make " + string(s)}
		rows[fmt.Sprintf("%s-young-absent", s)] = row{rec(s), absent, patience - 1, "make " + string(s)}
		late := "fail " + string(s)
		if s == Requested { // it may stand in line
			late = "make REQUESTED"
		}
		rows[fmt.Sprintf("%s-late-there", s)] = row{rec(s), there, patience, "make " + string(s)} // it may be READY long since
		rows[fmt.Sprintf("%s-late-dead", s)] = row{rec(s), dead, patience, late}
		rows[fmt.Sprintf("%s-late-absent", s)] = row{rec(s), absent, patience, late}
	}
	for _, s := range []State{Ready, Running, Stopped, Suspended} {
		if s != Stopped {
			rows[fmt.Sprintf("%s-there", s)] = row{rec(s), there, time.Hour - 1, ""}
		}
		rows[fmt.Sprintf("%s-absent", s)] = row{rec(s), absent, time.Hour - 1, "fail " + string(s) + " doubt"}
	}
	for s := range next {
		if !s.Live() {
			continue
		}
		rows[fmt.Sprintf("%s-past-end-there", s)] = row{rec(s), there, time.Hour, "expire " + string(s)}
		rows[fmt.Sprintf("%s-past-end-absent", s)] = row{rec(s), absent, time.Hour, "expire " + string(s)}
	}
	for _, s := range []State{Timeout, Failed, Destroying} {
		rows[fmt.Sprintf("%s-there", s)] = row{rec(s), there, time.Minute, "remove " + string(s)}
		rows[fmt.Sprintf("%s-dead", s)] = row{rec(s), dead, time.Minute, "remove " + string(s)}
		rows[fmt.Sprintf("%s-absent", s)] = row{rec(s), absent, time.Minute, "finish " + string(s)}
	}
	// Papers of later keys than the record's are of its owner; what has ended has ended.
	for s := range next {
		claimed := mach(true)
		claimed[0].Papers.Keys = 1
		want := "trust READY"
		if !s.Live() {
			want = "remove " + string(s)
		}
		for _, after := range []time.Duration{time.Minute, time.Hour} {
			rows[fmt.Sprintf("%s-claimed-since-%v", s, after)] = row{rec(s), claimed, after, want}
		}
	}
	// What can't be read says nothing, but for its handle.
	unread := []provisioner.Machine{{Ref: provisioner.Ref{Handle: "h"}, Unread: true}}
	rec = func(s State) []Sandbox {
		return []Sandbox{{ID: "sb-1", State: s, Handle: "h being-made", Begun: noon, End: noon.Add(time.Hour)}}
	}
	rows["nothing-but-unread"] = row{nil, unread, time.Hour, ""}
	for _, s := range []State{Ready, Running, Stopped, Suspended} {
		rows[fmt.Sprintf("%s-unread", s)] = row{rec(s), unread, time.Hour - 1, ""}
		rows[fmt.Sprintf("%s-past-end-unread", s)] = row{rec(s), unread, time.Hour, "expire " + string(s)}
	}
	for _, s := range []State{Timeout, Failed, Destroying} {
		rows[fmt.Sprintf("%s-unread", s)] = row{rec(s), unread, time.Minute, "remove " + string(s)}
		unnamed := rec(s)
		unnamed[0].Handle = ""
		rows[fmt.Sprintf("%s-without-a-handle-unread", s)] = row{unnamed, unread, time.Minute, "remove " + string(s)}
	}
	// What was read in one place was, although it can't be in another.
	rows["no-restart-dead-and-unread"] = row{rec(Running), slices.Concat(dead, unread), time.Minute, "fail RUNNING doubt"}
	// A member whose machine can't be read may be somebody's since.
	for s := range next {
		member := rec(s)
		member[0].Owner = PoolOwner("p")
		want := "leave " + string(s)
		if !s.Live() {
			want = "remove " + string(s)
		}
		for _, after := range []time.Duration{time.Minute, time.Hour} {
			rows[fmt.Sprintf("%s-member-unread-%v", s, after)] = row{member, unread, after, want}
		}
	}
	unnamed := rec(Requested)
	unnamed[0].Owner, unnamed[0].Handle, unnamed[0].Created = PoolOwner("p"), "", noon
	rows["member-without-a-handle-unread"] = row{unnamed, unread, time.Minute, "make REQUESTED"}
	earlier := slices.Clone(unnamed)
	earlier[0].Created = noon.Add(-1)
	rows["earlier-member-without-a-handle-unread"] = row{earlier, unread, time.Minute, "leave REQUESTED"}
	rows["earlier-member-without-a-handle"] = row{earlier, nil, time.Minute, "make REQUESTED"}
	for _, s := range []State{Requested, Provisioning, Booting} {
		rows[fmt.Sprintf("%s-unread", s)] = row{rec(s), unread, time.Hour - 1, ""}
		rows[fmt.Sprintf("%s-past-end-unread", s)] = row{rec(s), unread, time.Hour, "expire " + string(s)}
	}
	// A second machine goes when the sandbox lives and the first is on record.
	two := func(own, spare string) []provisioner.Machine {
		m := mach(true)
		m[0].Handle = own
		m = append(m, m[0])
		m[1].Handle, m[1].Running, m[1].Spare = spare, false, true
		return m
	}
	for s := range next {
		want := "trim " + string(s)
		switch {
		case s.off(): // when the first is as it is to be
			want = map[State]string{Stopping: "stop STOPPING", Starting: "start STARTING", Stopped: "wake STOPPED doubt"}[s]
		case s.making():
			want = "make " + string(s)
		case !s.Live():
			want = "remove " + string(s)
		}
		rows[fmt.Sprintf("%s-spare", s)] = row{rec(s), two("h", "h2"), time.Minute, want}
	}
	rows["spare-on-record"] = row{rec(Ready), two("h2", "h"), time.Minute, ""}
	rows["spare-past-end"] = row{rec(Ready), two("h", "h2"), time.Hour, "expire READY"}
	rows["spare-without-a-record"] = row{nil, two("h", "h2"), time.Minute, "adopt READY"}
	other := rec(Ready)
	other[0].Handle = "h2"
	rows["another-unread"] = row{other, unread, time.Minute, "fail READY doubt"}
	for name, tt := range rows {
		t.Run(name, func(t *testing.T) {
			var got string
			for _, a := range plan(tt.recorded, tt.seen, noon.Add(tt.after), noon, patience, !strings.HasPrefix(name, "no-restart-")) {
				got += string(a.do) + " " + string(a.sb.State)
				if a.doubt {
					got += " doubt"
				}
				want := "h"
				if a.do == doTrim {
					want = "h2"
				}
				if tt.seen != nil && !tt.seen[0].Unread && !provisioner.SameHandle(a.sb.Handle, want) {
					t.Errorf("handle %q, want that of the seen machine, %q", a.sb.Handle, want)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// Every field of the papers must reach the record that is rebuilt from them.
func TestAdoptedRecord(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	got := plan(nil, []provisioner.Machine{{
		Ref: provisioner.Ref{Sandbox: "sb-1", Handle: "h"}, Running: true, IP: "ip", Home: "/w", OS: "os",
		Papers: provisioner.Papers{
			Instance: "i", Sandbox: "sb-1", Owner: "o", Name: "n", Profile: "p",
			Created: noon, End: noon.Add(1), MaxEnd: noon.Add(2), MemoryMB: 5,
		},
	}}, noon, noon, time.Minute, true)
	want := []action{{do: doAdopt, sb: Sandbox{
		ID: "sb-1", Name: "n", Owner: "o", Profile: "p", State: Ready, Handle: "h", IP: "ip", Home: "/w", OS: "os",
		Created: noon, Begun: noon, Ready: noon, End: noon.Add(1), MaxEnd: noon.Add(2), MemoryMB: 5,
	}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(action{})); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}
