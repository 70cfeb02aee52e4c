package sessions_test

import (
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// What was being made when the backup was made that was restored may be its
// owner's since, who has extended it: the machine's papers tell its end.
func TestRebuildOfWhatWasBeingMade(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		l.world.hang("run", "")
		sb, _, err := l.Create(as(t, "alice"), sessions.CreateRequest{Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l.stop()
		m := l.world.machines[sb.ID]
		m.Papers.End = sb.End.Add(time.Hour)
		l.world.machines[sb.ID] = m
		time.Sleep(time.Until(sb.End) + time.Minute)
		l.world.onStep(nil)
		rebuilder := newLab(t, l.world, l.path)
		_, err = rebuilder.Rebuild(t.Context())
		rebuilder.stop()
		if err != nil {
			t.Fatal(err)
		}
		l.restart()
		synctest.Wait()
		l.mustBe(t, sb.ID, sessions.Ready)
		if got := l.recorded(t, sb.ID).End; !got.Equal(m.Papers.End) {
			t.Errorf("it ends at %v, want %v", got, m.Papers.End)
		}
	})
}

// rebuild has the records of what there is rebuilt by a Manager of its own.
func (l *lab) rebuild(backends map[string]provisioner.Provisioner) ([]sessions.Sandbox, error) {
	l.t.Helper()
	r := newLab(l.t, l.world, l.path)
	defer r.stop()
	r.Backends["mem"] = l.world
	maps.Copy(r.Backends, backends)
	return r.Rebuild(l.t.Context())
}

// All that can be read is recorded, with its backend, and what can't be is an error:
// a machine that can't be read, a backend that can't be asked.
func TestRebuild(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		web, dark := l.create(t, sessions.CreateRequest{Name: "web"}), l.create(t, sessions.CreateRequest{})
		l.stop()
		l.loseStore(t, "")
		l.orphan("sb-over", "", time.Now())
		l.world.hide(dark.ID)
		down := &world{}
		down.fail("list", errors.New("broken"))
		found, err := l.rebuild(map[string]provisioner.Provisioner{"down": down})
		if len(found) != 1 || found[0].ID != web.ID || found[0].Name != "web" || found[0].Backend != "mem" || found[0].State != sessions.Ready {
			t.Errorf("found %+v", found)
		}
		if !errors.Is(err, provisioner.ErrUnavailable) {
			t.Errorf("a machine that can't be read: %v", err)
		}
		l.world.hide("")
		if found, err = l.rebuild(map[string]provisioner.Provisioner{"down": down}); err == nil || len(found) != 1 || found[0].ID != dark.ID {
			t.Errorf("with a backend that is down: %+v, %v", found, err)
		}
		if found, err = l.rebuild(nil); err != nil || len(found) != 0 {
			t.Errorf("with nothing left: %+v, %v", found, err)
		}
		if n := l.world.count("destroy"); n != 0 {
			t.Errorf("destroyed %d times", n)
		}
	})
}

// An end is taken from the papers only of what was being made when it was recorded,
// runs, and is of the same keys.
func TestRebuildKeepsEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		state sessions.State
		edit  func(m *provisioner.Machine)
		taken bool
	}{
		"being made":    {sessions.Booting, func(*provisioner.Machine) {}, true},
		"ready":         {sessions.Ready, func(*provisioner.Machine) {}, false},
		"does not run":  {sessions.Booting, func(m *provisioner.Machine) { m.Running = false }, false},
		"of other keys": {sessions.Booting, func(m *provisioner.Machine) { m.Papers.Keys = 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				now := time.Now().UTC()
				sb := sessions.Sandbox{
					ID: "sb-1", Owner: "alice", Profile: "small", Backend: "mem", State: tt.state, Handle: "h",
					Created: now, Begun: now, End: now.Add(time.Hour), MaxEnd: now.Add(4 * time.Hour),
				}
				l.stop()
				db := newLab(t, l.world, l.path)
				_, _, err := db.db.Add(t.Context(), sb, sessions.Quota{}, sessions.Change{At: now})
				db.stop()
				if err != nil {
					t.Fatal(err)
				}
				want := sb.End
				l.orphan(sb.ID, "", sb.End.Add(time.Hour))
				m, _ := l.world.machine(sb.ID)
				tt.edit(&m)
				l.world.put(m)
				if tt.taken {
					want = m.Papers.End
				}
				if _, err := l.rebuild(nil); err != nil {
					t.Fatal(err)
				}
				after := newLab(t, l.world, l.path)
				defer after.stop()
				if got := after.recorded(t, sb.ID); !got.End.Equal(want) || got.State != tt.state {
					t.Errorf("it is %s until %v, want %v", got.State, got.End, want)
				}
			})
		})
	}
}
