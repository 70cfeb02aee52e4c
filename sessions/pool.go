package sessions

import (
	"fmt"
	"strings"
	"time"
)

// Pool says how many machines of a profile are kept ready for whoever asks next.
// The tags are the keys of its YAML, below pool.
type Pool struct {
	// machines of this profile that are kept ready for whoever asks next, 0 to 64; docs/pool.md says what that costs
	// and gives
	Size int `yaml:"size"`
	// after which one that nobody wanted is replaced, `1m` to `168h`
	MaxAge time.Duration `yaml:"max_age"`
	// how many of them may be made at once, 1 to 64
	Burst int `yaml:"burst"`
}

// maxPool is the largest Size.
const maxPool = 64

// validate names the key that can't be, its value, and what is allowed.
func (p Pool) validate() error {
	for _, r := range []struct {
		key               string
		value, least, max int
	}{
		{"pool.size", p.Size, 0, maxPool},
		{"pool.burst", p.Burst, 1, maxPool},
	} {
		if r.value < r.least || r.value > r.max {
			return fmt.Errorf("%s is %d, allowed: %d to %d", r.key, r.value, r.least, r.max)
		}
	}
	if least, most := time.Minute, 7*24*time.Hour; p.MaxAge < least || p.MaxAge > most {
		return fmt.Errorf("pool.max_age is %v, allowed: %v to %v", p.MaxAge, least, most)
	}
	return nil
}

// poolPrefix begins the owner of what is in a pool. No [Principal] has such a name.
const poolPrefix = "pool:"

// PoolOwner is the owner of the members of the pool of a profile: sandboxes that
// no principal sees, and that count for none.
func PoolOwner(profile string) string { return poolPrefix + profile }

// Pooled says that the sandbox is a member of a pool.
func (s Sandbox) Pooled() bool { return strings.HasPrefix(s.Owner, poolPrefix) }

// claimed says that it was taken from a pool and is not yet known to be its
// owner's on the inside, too.
func (s Sandbox) claimed() bool { return s.State == Booting && s.Keys > 0 }

// recipe tells machines that may stand for each other: those that the backend
// makes from the same thing, which word says, and that are of one kind.
func recipe(word string, p Profile, sb Sandbox) string {
	return fmt.Sprintf("%s %s%s", p.Backend, word, kind(p, sb))
}

func kind(p Profile, sb Sandbox) string {
	return fmt.Sprintf(" root=%q user=%q cores=%d memory=%d disk=%d procs=%d network=%s",
		p.Root, p.User, sb.Cores, sb.MemoryMB, sb.DiskMB, p.MaxProcs, sb.Network)
}

// madeBy says that a member has the kind that the profile says.
func madeBy(p Profile, sb Sandbox) bool { return strings.HasSuffix(sb.Recipe, kind(p, sb)) }

// upkeep is what a pool needs.
type upkeep struct {
	drain []Sandbox // to be destroyed, and why
	why   []string
	make  int
	look  time.Time // when the next member is old enough to be replaced
}

// renewal is the part of MaxAge, at its end, in which a member is replaced.
const renewal = 5

// plan compares the members that are not DESTROYED, the oldest first, with what
// there should be. There is at most one more than Size: that is how one which
// comes of age is replaced before it goes.
func (p Pool) plan(members []Sandbox, recipe string, now time.Time) upkeep {
	u := upkeep{look: forever}
	var ready []Sandbox
	fresh, making := 0, 0
	for _, sb := range members {
		switch {
		case !sb.State.Live(): // its machine is not removed yet
			continue
		case sb.Recipe != recipe:
			u.retire(sb, "pool: what it was made from has changed")
			continue
		case sb.State.making():
			making++
		case !now.Before(sb.Created.Add(p.MaxAge)): // it was made when that was more
			u.retire(sb, "pool: older than max_age")
			continue
		default:
			ready = append(ready, sb)
		}
		if ages := earlier(sb.End, sb.Created.Add(p.MaxAge)).Add(-p.MaxAge / renewal); now.Before(ages) {
			fresh++
			u.look = earlier(u.look, ages)
		}
	}
	for _, sb := range ready[:max(0, len(ready)-p.Size)] {
		u.retire(sb, "pool: replaced, or one too many")
	}
	u.make = max(0, min(p.Size-fresh, p.Size+1-len(members), p.Burst-making))
	return u
}

func (u *upkeep) retire(sb Sandbox, why string) {
	u.drain, u.why = append(u.drain, sb), append(u.why, why)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
