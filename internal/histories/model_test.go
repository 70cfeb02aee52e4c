package histories

import (
	"fmt"
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// model is what the principals were told, and so what must hold. It knows less
// than the store, on purpose.
type model struct {
	boxes  []*box
	asked  map[string]int // creates of a principal of whose sandbox nothing is known: they go on, failed, or were cut
	claims int            // of what was in a pool
	calm   bool           // nothing has gone wrong so far
	broken []string       // what did not hold
}

// box is a sandbox.
type box struct {
	id, owner string
	counted   bool      // one that was asked for is known to be it
	ready     bool      // its owner was told so
	doubt     bool      // it may end before its time: that was asked for, or its machine was slain
	past      bool      // a clock that was set back since has told that its end has come
	over      bool      // its owner was told that it is destroyed
	off       bool      // its machine may be switched off or held still: that was asked for
	turned    int       // how often it was switched
	turning   int       // calls that switch it and are under way
	due       time.Time // it must not end before
	extends   int       // that are under way
	extended  time.Time // when the last one had ended
	processes []*process
}

// process is one that was started in a box.
type process struct {
	id   string
	next int64 // offset up to which its output was read
}

// certain says that a box must be of use now.
func (b *box) certain(now time.Time) bool {
	return b.ready && !b.doubt && !b.off && !b.past && now.Before(b.due)
}

func (m *model) broke(format string, args ...any) {
	m.broken = append(m.broken, fmt.Sprintf(format, args...))
}

func (m *model) find(id string) *box {
	if i := slices.IndexFunc(m.boxes, func(b *box) bool { return b.id == id }); i >= 0 {
		return m.boxes[i]
	}
	return nil
}

// pick returns the box that a step means, mostly one that is not over; nil if
// there is none. What is to be switched on is mostly one that was switched off.
func (m *model) pick(s step) *box {
	from := slices.DeleteFunc(slices.Clone(m.boxes), func(b *box) bool { return b.over || s.do == on && !b.off })
	if s.box > 7 || len(from) == 0 {
		from = m.boxes
	}
	if len(from) == 0 {
		return nil
	}
	return from[s.box%len(from)]
}

// meet returns the box of a record, which its owner must have asked for.
func (m *model) meet(sb sessions.Sandbox) *box {
	b := m.find(sb.ID)
	if b == nil {
		b = &box{id: sb.ID, owner: sb.Owner, due: sb.End}
		m.boxes = append(m.boxes, b)
	}
	if !b.counted && (sb.Keys == 0 || !sb.Ready.IsZero()) { // who was not handed over what they claimed gets another
		b.counted = true
		if sb.Keys > 0 {
			m.claims++
		}
		if m.asked[sb.Owner]--; m.asked[sb.Owner] < 0 {
			m.broke("%s has %s, which was never asked for", sb.Owner, sb.ID)
		}
	}
	if b.owner != sb.Owner {
		m.broke("%s of %s is now of %s", b.id, b.owner, sb.Owner)
	}
	return b
}

// told notes what an owner was told of a sandbox of theirs.
func (m *model) told(who string, sb sessions.Sandbox) *box {
	b := m.meet(sb)
	if who != b.owner {
		m.broke("%s was shown %s of %s", who, b.id, b.owner)
	}
	if b.over {
		m.broke("%s was shown %s, which is destroyed", who, b.id)
	}
	if usable(sb) {
		b.ready = true
	}
	return b
}

func usable(sb sessions.Sandbox) bool {
	return sb.State == sessions.Ready || sb.State == sessions.Running
}

// atRest says that the machine of a sandbox is there and does not run.
func atRest(sb sessions.Sandbox) bool {
	return sb.State == sessions.Stopped || sb.State == sessions.Suspended
}

// recorded looks whether the records are as they must be, at a time when nothing
// is being done.
func (m *model) recorded(all []sessions.Sandbox, pool int, now time.Time) {
	members, count, named := 0, map[string]int{}, map[string]bool{}
	seen := map[string]sessions.Sandbox{}
	for _, sb := range all {
		if sb.Pooled() {
			if members++; members > pool+1 || pool == 0 {
				m.broke("a pool of %d has %d members", pool, members)
			}
			if b := m.find(sb.ID); b != nil {
				m.broke("%s of %s is in a pool", b.id, b.owner)
			}
			continue
		}
		b := m.meet(sb)
		seen[sb.ID] = sb
		if sb.State != sessions.Destroyed {
			count[sb.Owner]++
		}
		if key := sb.Owner + "/" + sb.Name; sb.Name != "" && sb.State.Live() {
			if named[key] {
				m.broke("%s has two sandboxes of one name: %s", sb.Owner, sb.Name)
			}
			named[key] = true
		}
		if b.over && sb.State != sessions.Destroyed {
			m.broke("%s, which is destroyed, is %s", b.id, sb.State)
		}
		if sb.End.Before(b.due) && sb.State.Live() {
			m.broke("%s ends at %v, before %v", b.id, sb.End, b.due)
		}
		if sb.End.After(sb.MaxEnd) {
			m.broke("%s ends at %v, after %v", b.id, sb.End, sb.MaxEnd)
		}
		if sb.Reason == "ttl" && sb.Ended.Before(sb.End) && !b.past {
			m.broke("%s was reaped at %v, its end is %v", b.id, sb.Ended, sb.End)
		}
	}
	for _, b := range m.boxes {
		if sb, there := seen[b.id]; b.certain(now) && (!there || !usable(sb)) {
			m.broke("%s must live until %v, and is %q %q %q", b.id, b.due, sb.State, sb.Reason, sb.Handle)
		}
	}
	for who, n := range count {
		if n > quota.Sandboxes {
			m.broke("%s has %d sandboxes, %d are allowed", who, n, quota.Sandboxes)
		}
	}
}

// listed looks whether a principal was shown what is theirs.
func (m *model) listed(who string, shown []sessions.Sandbox, certain []*box, now time.Time) {
	for _, sb := range shown {
		m.told(who, sb)
	}
	for _, b := range certain {
		if b.certain(now) && !slices.ContainsFunc(shown, func(sb sessions.Sandbox) bool { return sb.ID == b.id }) {
			m.broke("%s is not shown %s", who, b.id)
		}
	}
}

// sure are the boxes of a principal that must be of use now.
func (m *model) sure(who string, now time.Time) (all []*box) {
	for _, b := range m.boxes {
		if b.owner == who && b.certain(now) {
			all = append(all, b)
		}
	}
	return all
}

// atMost is how many sandboxes a principal may have at most.
func (m *model) atMost(who string) int {
	n := m.asked[who]
	for _, b := range m.boxes {
		if b.owner == who && !b.over {
			n++
		}
	}
	return n
}
