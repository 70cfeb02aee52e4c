package sessions

import (
	"slices"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// verb is what is to be done about a sandbox or its machine.
type verb string

const (
	doMake   verb = "make"   // go on making it, unless somebody does
	doExpire verb = "expire" // TIMEOUT, and remove the machine
	doFail   verb = "fail"   // FAILED, and remove the machine
	doRemove verb = "remove" // remove the machine
	doTrim   verb = "trim"   // remove a machine that it has besides its own
	doFinish verb = "finish" // DESTROYED: there is no machine
	doAdopt  verb = "adopt"  // record a sandbox for the machine
	doTrust  verb = "trust"  // record what the machine's papers say: the record is from before
	doStop   verb = "stop"   // go on switching it off, unless somebody does
	doStart  verb = "start"  // go on switching it on
	doHalt   verb = "halt"   // STOPPED: its machine was switched off, and not by us
	doWake   verb = "wake"   // READY, if it answers: its machine was switched on, and not by us
	doLeave  verb = "leave"  // the record of a member of a pool may be from before: its machine can't be read
)

// action is one decision of plan.
type action struct {
	do     verb
	sb     Sandbox // as recorded, or to be recorded
	reason string  // of doFail
	doubt  bool    // one look is not enough: act when the next one agrees
}

// plan compares what is recorded with what is seen and says what to do. It is
// all the policy there is about reaping, recovery and orphans. recorded holds
// every sandbox that is not DESTROYED and those of the machines in seen; it
// must have been read before seen was, or a sandbox born between the two looks
// vanished. patience is the longest that making may take, started is when this
// run began: what it has recorded itself is not from before a machine's. restarts
// says that a machine which is off can be started again.
func plan(recorded []Sandbox, seen []provisioner.Machine, now, started time.Time, patience time.Duration, restarts bool) []action {
	w := sight(seen)
	var todo []action
	known := make(map[string]bool, len(recorded))
	for _, sb := range recorded {
		known[sb.ID] = true
		if a := w.decide(sb, now, started, patience, restarts); a.do != "" {
			todo = append(todo, a)
		}
	}
	for _, mach := range seen {
		if !mach.Unread && !mach.Spare && !known[mach.Sandbox] {
			todo = append(todo, orphan(mach, now, patience))
		}
	}
	return todo
}

// sighted are the machines that were seen, by what is known of them.
type sighted struct {
	machines map[string]provisioner.Machine // by sandbox
	spare    map[string]provisioner.Machine // one at a time
	dark     []provisioner.Machine          // which can't be read now
}

func sight(seen []provisioner.Machine) sighted {
	w := sighted{machines: make(map[string]provisioner.Machine, len(seen)), spare: map[string]provisioner.Machine{}}
	for _, mach := range seen {
		switch {
		case mach.Unread:
			w.dark = append(w.dark, mach)
		case mach.Spare:
			w.spare[mach.Sandbox] = mach
		default:
			w.machines[mach.Sandbox] = mach
		}
	}
	return w
}

// decide says what is to be done about a recorded sandbox.
func (w sighted) decide(sb Sandbox, now, started time.Time, patience time.Duration, restarts bool) action {
	mach, there := w.machines[sb.ID]
	if sb.Handle == "" {
		sb.Handle = mach.Handle
	}
	// What can't be read now has neither vanished nor died. Without a handle it may be any.
	unread := !there && slices.ContainsFunc(w.dark, func(d provisioner.Machine) bool {
		return sb.Handle == "" || provisioner.SameHandle(d.Handle, sb.Handle)
	})
	named := unread && sb.Handle != ""
	a := judge(sb, there || unread, mach.Running || unread, now, patience)
	if a.do == doHalt && (!restarts || sb.Pooled()) {
		a.do, a.reason = doFail, "failed: its machine died"
	}
	switch {
	case sb.State.Live() && mach.Papers.Keys > sb.Keys:
		return action{do: doTrust, sb: told(mach)}
	case unread && sb.State.Live() && sb.Pooled() && (named || sb.Created.Before(started)):
		return action{do: doLeave, sb: sb}
	case unread && a.do == doWake:
		return action{}
	case named && sb.State.making() && a.do != doExpire:
		return action{} // it is not gone on with before that can be read
	}
	if two, ok := w.spare[sb.ID]; ok && a.do == "" && sb.State.Live() && !provisioner.SameHandle(two.Handle, sb.Handle) {
		sb.Handle = two.Handle
		return action{do: doTrim, sb: sb}
	}
	return a
}

// judge decides about one recorded sandbox.
func judge(sb Sandbox, there, runs bool, now time.Time, patience time.Duration) action {
	switch s := sb.State; {
	case !s.Live() && there:
		return action{do: doRemove, sb: sb}
	case s == Destroyed:
		return action{}
	case !s.Live():
		return action{do: doFinish, sb: sb}
	case !now.Before(sb.End):
		return action{do: doExpire, sb: sb}
	case s == Requested: // it may stand in line for long, until its end
		return action{do: doMake, sb: sb}
	case s.making() && now.Sub(sb.Begun) >= patience && !runs: // else it is only not known to be ready
		return action{do: doFail, sb: sb, reason: "failed: it was not ready in time"}
	case s.making():
		return action{do: doMake, sb: sb}
	case !there:
		return action{do: doFail, sb: sb, reason: "failed: its machine vanished", doubt: true}
	case s == Stopping:
		return action{do: doStop, sb: sb}
	case s == Starting:
		return action{do: doStart, sb: sb}
	case s == Stopped && runs:
		return action{do: doWake, sb: sb, doubt: true}
	case s != Stopped && !runs:
		return action{do: doHalt, sb: sb, doubt: true}
	}
	return action{}
}

// orphan decides about a machine of ours without a record: the store was lost.
// Its papers, which List has verified, say all that matters.
func orphan(mach provisioner.Machine, now time.Time, patience time.Duration) action {
	p, sb := mach.Papers, told(mach)
	switch {
	case !now.Before(p.End):
		return action{do: doRemove, sb: sb}
	case mach.Running:
		sb.Ready = now
	case !p.Stopped && now.Sub(p.Created) < patience: // it was being made
		sb.State = Requested
	default:
		sb.State = Stopped
	}
	return action{do: doAdopt, sb: sb}
}

// told is the sandbox that a machine's papers tell of, if it is READY.
func told(mach provisioner.Machine) Sandbox {
	p := mach.Papers
	return Sandbox{
		ID: mach.Sandbox, Name: p.Name, Owner: p.Owner, Profile: p.Profile, State: Ready,
		Handle: mach.Handle, IP: mach.IP, Home: mach.Home, OS: mach.OS,
		Created: p.Created, Begun: p.Created, End: p.End, MaxEnd: p.MaxEnd, MemoryMB: p.MemoryMB, Keys: p.Keys,
	}
}
