package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// member adds a READY member of the pool of p, made so long after noon.
func member(t *testing.T, db *store.DB, id string, after time.Duration, edit func(*sessions.Sandbox)) {
	t.Helper()
	sb := sandbox(id)
	sb.Owner, sb.Recipe, sb.Created = sessions.PoolOwner("p"), "a", noon.Add(after)
	sb.MaxEnd = sb.End
	if edit != nil {
		edit(&sb)
	}
	add(t, db, sb, sessions.Provisioning, sessions.Booting, sessions.Ready)
}

// wanted is a sandbox of alice's that a member would do for.
func wanted() sessions.Sandbox {
	sb := sandbox("sb-new")
	sb.Owner, sb.Name, sb.Recipe = "alice", "web", "a"
	sb.Created, sb.End, sb.MaxEnd = noon.Add(time.Minute), noon.Add(3*time.Hour), noon.Add(4*time.Hour)
	return sb
}

// claim claims a minute after noon what lives for more than half a minute.
func claim(t *testing.T, db *store.DB, sb sessions.Sandbox, quota sessions.Quota) (sessions.Sandbox, bool, error) {
	t.Helper()
	ch := at(time.Minute)
	ch.By = sb.Owner
	return db.Claim(t.Context(), sb, quota, sessions.Fit{EndsAfter: noon.Add(90 * time.Second), Except: []string{"sb-dark"}}, ch)
}

// The oldest member becomes what is wanted, but for its id and its machine.
func TestClaim(t *testing.T) {
	db, path := open(t)
	member(t, db, "sb-1", time.Second, nil)
	member(t, db, "sb-2", 0, nil)
	got, existing, err := claim(t, db, wanted(), sessions.Quota{Sandboxes: 1, MemoryMB: 100})
	if err != nil || existing {
		t.Fatalf("Claim: existing %v, error %v", existing, err)
	}
	want := wanted()
	want.ID, want.State, want.Begun, want.Recipe, want.Keys = "sb-2", sessions.Booting, want.Created, "", 1
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Claim (-want +got):\n%s", diff)
	}
	kept, err := db.Sandbox(t.Context(), "sb-2")
	if diff := cmp.Diff(want, kept); diff != "" || err != nil {
		t.Errorf("record (-want +got):\n%s%v", diff, err)
	}
	all := events(t, path, "sb-2")
	if last := all[len(all)-1]; last != "claim READY BOOTING pool:p" {
		t.Errorf("its event is %q", last)
	}
	if _, err := db.Move(t.Context(), "sb-2", sessions.Ready, at(2*time.Minute)); err != nil {
		t.Error(err)
	}
	if kept, _ := db.Sandbox(t.Context(), "sb-2"); !kept.Ready.Equal(noon.Add(2 * time.Minute)) {
		t.Errorf("it was READY at %v", kept.Ready)
	}
}

// What a record keeps of its machine stays when it is claimed.
func TestClaimKeepsTheMachine(t *testing.T) {
	db, _ := open(t)
	member(t, db, "sb-1", 0, nil)
	other := sandbox("sb-2")
	other.Owner, other.Recipe, other.Handle, other.IP, other.Home, other.OS = sessions.PoolOwner("p"), "b", "h", "10.0.0.1", "/root", "Debian"
	add(t, db, other, sessions.Provisioning, sessions.Booting, sessions.Ready)
	want := wanted()
	want.Recipe = "b"
	got, _, err := claim(t, db, want, sessions.Quota{})
	if err != nil || got.ID != "sb-2" || got.Handle != "h" || got.IP != "10.0.0.1" || got.Home != "/root" || got.OS != "Debian" {
		t.Errorf("Claim: %+v, %v", got, err)
	}
}

// What is no READY member that fits and lasts is left alone, and one is recorded
// that is to be made.
func TestClaimOfNoMember(t *testing.T) {
	for name, edit := range map[string]func(*sessions.Sandbox){
		"of another recipe": func(sb *sessions.Sandbox) { sb.Recipe = "b" },
		"of no recipe":      func(sb *sessions.Sandbox) { sb.Recipe = "" },
		"of another pool":   func(sb *sessions.Sandbox) { sb.Owner = sessions.PoolOwner("q") },
		"of a user's":       func(sb *sessions.Sandbox) { sb.Owner = "bob" },
		"left out":          func(sb *sessions.Sandbox) { sb.ID = "sb-dark" },
		"about to end":      func(sb *sessions.Sandbox) { sb.End = noon.Add(90 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			db, path := open(t)
			member(t, db, "sb-1", 0, edit)
			id := "sb-1"
			if name == "left out" {
				id = "sb-dark"
			}
			before, err := db.Sandbox(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			want := wanted()
			if name == "of no recipe" {
				want.Recipe = ""
			}
			got, existing, err := claim(t, db, want, sessions.Quota{})
			want.Recipe = ""
			if diff := cmp.Diff(want, got); diff != "" || err != nil || existing {
				t.Errorf("Claim: existing %v, error %v (-want +got):\n%s", existing, err, diff)
			}
			after, err := db.Sandbox(t.Context(), id)
			if diff := cmp.Diff(before, after); diff != "" || err != nil {
				t.Errorf("the other one (-want +got):\n%s%v", diff, err)
			}
			if got := events(t, path, "sb-new"); len(got) != 1 || got[0] != "create  REQUESTED " {
				t.Errorf("events %q", got)
			}
		})
	}
	for _, s := range []sessions.State{sessions.Requested, sessions.Provisioning, sessions.Booting, sessions.Destroying} {
		t.Run(string(s), func(t *testing.T) {
			db, _ := open(t)
			sb := sandbox("sb-1")
			sb.Owner, sb.Recipe, sb.State = sessions.PoolOwner("p"), "a", s
			if s == sessions.Destroying {
				sb.Ended = noon
			}
			add(t, db, sb)
			if got, _, err := claim(t, db, wanted(), sessions.Quota{}); err != nil || got.ID != "sb-new" {
				t.Errorf("Claim: %+v, %v", got, err)
			}
		})
	}
}

// The same rules as for a sandbox that is made: one of a name, and a quota.
func TestClaimHeedsNameAndQuota(t *testing.T) {
	db, _ := open(t)
	member(t, db, "sb-1", 0, nil)
	own := wanted()
	own.ID, own.Recipe = "sb-own", ""
	add(t, db, own)
	if got, existing, err := claim(t, db, wanted(), sessions.Quota{}); err != nil || !existing || got.ID != "sb-own" {
		t.Errorf("of a name that is taken: %+v, existing %v, %v", got, existing, err)
	}
	another := wanted()
	another.Name = "db"
	for _, q := range []sessions.Quota{{Sandboxes: 1}, {MemoryMB: 199}} {
		if _, _, err := claim(t, db, another, q); !errors.Is(err, sessions.ErrOverQuota) {
			t.Errorf("with %+v: %v", q, err)
		}
	}
	if sb, err := db.Sandbox(t.Context(), "sb-1"); err != nil || !sb.Pooled() || sb.State != sessions.Ready {
		t.Errorf("the member: %+v, %v", sb, err)
	}
}

// However many ask at once, a member is one's.
func TestClaimsAtOnce(t *testing.T) {
	db, _ := open(t)
	const members, claims = 3, 12
	for i := range members {
		member(t, db, fmt.Sprintf("sb-%d", i), 0, nil)
	}
	got := make(chan string, claims)
	parallel(claims, func(i int) error {
		sb := wanted()
		sb.ID, sb.Owner = fmt.Sprintf("sb-new-%d", i), fmt.Sprintf("user-%d", i)
		kept, _, err := db.Claim(t.Context(), sb, sessions.Quota{}, sessions.Fit{EndsAfter: noon}, at(time.Minute))
		if err == nil && kept.Owner != sb.Owner {
			err = fmt.Errorf("%s got one of %s", sb.Owner, kept.Owner)
		}
		got <- kept.ID
		return err
	}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	close(got)
	warm := map[string]int{}
	for id := range got {
		warm[id]++
	}
	for i := range members {
		if n := warm[fmt.Sprintf("sb-%d", i)]; n != 1 {
			t.Errorf("member %d was given to %d", i, n)
		}
	}
}

// Whoever decided something of a sandbox did so of its owner's.
func TestMoveOfAnothersByNow(t *testing.T) {
	db, _ := open(t)
	member(t, db, "sb-1", 0, nil)
	drain := sessions.Change{At: noon.Add(time.Minute), Owner: sessions.PoolOwner("p")}
	if _, _, err := claim(t, db, wanted(), sessions.Quota{}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Move(t.Context(), "sb-1", sessions.Destroying, drain); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("drained after it was claimed: %v", err)
	}
	drain.Owner = "alice"
	if sb, err := db.Move(t.Context(), "sb-1", sessions.Destroying, drain); err != nil || sb.State != sessions.Destroying {
		t.Errorf("destroyed by its owner: %+v, %v", sb, err)
	}
	member(t, db, "sb-2", 0, nil)
	drain.Owner = sessions.PoolOwner("p")
	if _, err := db.Move(t.Context(), "sb-2", sessions.Destroying, drain); err != nil {
		t.Errorf("drained: %v", err)
	}
	if got, _, err := claim(t, db, wanted(), sessions.Quota{}); err != nil || got.ID == "sb-2" {
		t.Errorf("claimed after it was drained: %+v, %v", got, err)
	}
}

// Papers are believed once, of what lives, and take no name from another.
func TestTrust(t *testing.T) {
	db, _ := open(t)
	member(t, db, "sb-1", 0, nil)
	member(t, db, "sb-2", 0, nil)
	told := wanted()
	told.ID, told.State, told.Begun, told.Ready, told.Recipe, told.Keys = "sb-1", sessions.Ready, told.Created, told.Created, "", 1
	told.Home, told.OS, told.IP = "/workspace", "Debian", "10.0.0.9"
	got, err := db.Trust(t.Context(), told, at(time.Minute))
	if diff := cmp.Diff(told, got); diff != "" || err != nil {
		t.Errorf("Trust (-want +got):\n%s%v", diff, err)
	}
	if _, err := db.Trust(t.Context(), told, at(time.Minute)); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("again: %v", err)
	}
	told.ID = "sb-2"
	if got, err := db.Trust(t.Context(), told, at(time.Minute)); err != nil || got.Name != "" || got.Owner != "alice" {
		t.Errorf("with a name that is taken: %+v, %v", got, err)
	}
	told.Keys = 2
	if _, err := db.Move(t.Context(), "sb-2", sessions.Destroying, at(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Trust(t.Context(), told, at(time.Minute)); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("of what has ended: %v", err)
	}
}

// When a sandbox was READY first is kept when it is READY once more.
func TestReadyOnceMore(t *testing.T) {
	db, _ := open(t)
	add(t, db, sandbox("sb-1"), sessions.Provisioning, sessions.Booting, sessions.Ready)
	first, err := db.Sandbox(t.Context(), "sb-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []sessions.State{sessions.Stopped, sessions.Ready} {
		if _, err := db.Move(t.Context(), "sb-1", to, at(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := db.Sandbox(t.Context(), "sb-1"); err != nil || got.Ready.IsZero() || !got.Ready.Equal(first.Ready) {
		t.Errorf("it was READY at %v, and first at %v, %v", got.Ready, first.Ready, err)
	}
}
