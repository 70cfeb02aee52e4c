package histories

import (
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// step is one thing that happens in a history.
type step struct {
	do   verb
	who  int           // principal
	box  int           // sandbox, counted round among all that there were
	name string        // of a sandbox to be made
	time time.Duration // TTL, wait, pause, by how much the clock jumps
	n    int           // how many, which
	way  trouble
}

type verb string

// What principals do.
const (
	create  verb = "create"
	invalid verb = "create in vain"
	exec    verb = "exec"
	start   verb = "start"
	read    verb = "read"
	extend  verb = "extend"
	destroy verb = "destroy"
	off     verb = "switch off"
	on      verb = "switch on"
	hold    verb = "pause"
	unknown verb = "destroy none"
	list    verb = "list"
)

// What happens to the daemon.
const (
	stop verb = "stop the daemon"
	kill verb = "kill the daemon"
	fuse verb = "kill the daemon soon"
	vary verb = "stop the daemon and change its profile"
)

// What happens to the world.
const (
	sleep       verb = "sleep"
	jump        verb = "clock jumps"
	wire        verb = "trouble on the wire"
	taskFails   verb = "tasks fail"
	nodeDown    verb = "node down"
	nodeHung    verb = "node hangs"
	nodeMute    verb = "node mute"
	storageFull verb = "storage full"
	diskFull    verb = "the daemon's disk is full"
	lift        verb = "trouble is over"
	slay        verb = "somebody stops the machine of"
	wipe        verb = "somebody removes the machine of"
	intrude     verb = "somebody makes a machine"
)

// weights are how often each comes, in relation to the others.
var weights = map[verb]int{
	create: 18, invalid: 1, exec: 7, start: 3, read: 4, extend: 6, destroy: 6, unknown: 1, list: 4,
	off: 3, on: 4, hold: 2,
	stop: 1, kill: 3, fuse: 4, vary: 1,
	sleep: 16, jump: 2, wire: 6, taskFails: 2, nodeDown: 2, nodeHung: 1, nodeMute: 1, storageFull: 1, diskFull: 1, lift: 4,
	slay: 1, wipe: 2, intrude: 2,
}

// verbs are in order, so that a seed means the same every time. Shrinking goes
// to the first.
var verbs = weighted(sleep, create, list, exec, start, read, extend, destroy, off, on, hold, unknown, invalid, stop, kill, fuse, vary,
	jump, wire, taskFails, nodeDown, nodeHung, nodeMute, storageFull, diskFull, lift, slay, wipe, intrude)

// weighted mixes them, since low numbers are drawn more often than others.
func weighted(order ...verb) []verb {
	var all []verb
	for _, v := range order {
		for range weights[v] {
			all = append(all, v)
		}
	}
	const stride = 37
	if len(order) != len(weights) || len(all)%stride == 0 {
		panic("a verb has no place in the order, or not each is reached")
	}
	mixed := make([]verb, len(all))
	for i := range mixed {
		mixed[i] = all[i*stride%len(all)]
	}
	return mixed
}

var (
	names  = []string{"", "", "web", "db"}
	pauses = []time.Duration{0, 100 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second, 3 * time.Minute, 15 * time.Minute, 40 * time.Minute}
	waits  = []time.Duration{0, 5 * time.Second, time.Minute}
	ttls   = []time.Duration{0, time.Minute, 5 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, -time.Minute}
	jumps  = []time.Duration{time.Hour, -time.Hour}
	tasks  = []string{"qmclone", "qmstart", "qmstop", "qmdestroy", "resize"}
)

// principals are who asks.
var principals = []string{"alice", "bob", "carol"}

// steps draws a step. What it does not need of a step is not drawn.
var steps = rapid.Custom(func(t *rapid.T) step {
	s := step{do: rapid.SampledFrom(verbs).Draw(t, "do")}
	pick := func(from []time.Duration) time.Duration { return rapid.SampledFrom(from).Draw(t, "time") }
	switch s.do {
	case create, exec, start, read, extend, destroy, off, on, hold, unknown, invalid, list:
		s.who = rapid.IntRange(0, len(principals)-1).Draw(t, "who")
	default: // nobody does it
	}
	switch s.do {
	case exec, start, read, extend, destroy, off, on, hold, slay, wipe:
		s.box = rapid.IntRange(0, 9).Draw(t, "box")
	default: // it is about none
	}
	switch s.do {
	case create:
		s.name, s.time = rapid.SampledFrom(names).Draw(t, "name"), pick(waits)
		s.n = rapid.IntRange(0, 4).Draw(t, "ttl")
	case extend:
		s.time = pick(ttls)
	case off, on:
		s.time = pick(waits)
	case sleep:
		s.time = pick(pauses)
	case jump:
		s.time = pick(jumps)
	case fuse:
		s.n = rapid.IntRange(1, 40).Draw(t, "points")
	case wire:
		s.way = trouble(rapid.IntRange(0, troubles-1).Draw(t, "way"))
		s.n, s.box = rapid.IntRange(1, 5).Draw(t, "calls"), rapid.IntRange(0, 12).Draw(t, "after")
	case taskFails:
		s.box, s.n = rapid.IntRange(0, len(tasks)-1).Draw(t, "task"), rapid.IntRange(1, 3).Draw(t, "fails")
	case nodeDown, nodeHung, nodeMute, intrude, invalid:
		s.n = rapid.IntRange(0, 9).Draw(t, "which")
	default: // it needs no more
	}
	return s
})

// String is the step for people.
func (s step) String() string {
	who := principals[s.who] + ": " + string(s.do)
	switch s.do {
	case create:
		return fmt.Sprintf("%s %q for %v, waiting %v", who, s.name, ttls[s.n], s.time)
	case invalid:
		return fmt.Sprintf("%s, way %d", who, s.n)
	case off, on:
		return fmt.Sprintf("%s sandbox %d, waiting %v", who, s.box, s.time)
	case exec, start, read, destroy, hold:
		return fmt.Sprintf("%s sandbox %d", who, s.box)
	case extend:
		return fmt.Sprintf("%s sandbox %d by %v", who, s.box, s.time)
	case unknown, list:
		return who
	case sleep, jump:
		return fmt.Sprintf("%s %v", s.do, s.time)
	case fuse:
		return fmt.Sprintf("%s, at point %d from now", s.do, s.n)
	case wire:
		return fmt.Sprintf("%s: %d calls %v, after %d", s.do, s.n, s.way, s.box)
	case taskFails:
		return fmt.Sprintf("%s: %d %s", s.do, s.n, tasks[s.box])
	case nodeDown, nodeHung, nodeMute, intrude:
		return fmt.Sprintf("%s (%d)", s.do, s.n)
	case slay, wipe:
		return fmt.Sprintf("%s sandbox %d", s.do, s.box)
	default:
		return string(s.do)
	}
}
