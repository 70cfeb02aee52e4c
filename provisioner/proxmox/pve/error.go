package pve

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind says what went wrong. It is itself an error, so that
// errors.Is(err, pve.NotFound) asks for it.
type Kind string

// Kinds of failure. What is said about whether a call took effect holds for
// the call that returned the error.
const (
	// NotFound: the Subject does not exist. It says what is missing; a machine
	// that won't start for want of a snippet is not itself missing.
	NotFound Kind = "not found"
	// Exists: the Subject exists already.
	Exists Kind = "already exists"
	// Locked: the machine's config has a lock (Subject.Name: backup, clone...).
	Locked Kind = "locked"
	// LockTimeout: another task held the machine for too long. Nothing was done.
	LockTimeout Kind = "lock timeout"
	// Modified: the config was changed since its digest was read. Nothing was done.
	Modified Kind = "config was changed meanwhile"
	// Running, NotRunning, Protected, InUse: the machine's state forbids it.
	Running    Kind = "machine is running"
	NotRunning Kind = "machine is not running"
	Protected  Kind = "machine is protected"
	InUse      Kind = "in use"
	// AgentNotConfigured: the machine's config has no agent.
	AgentNotConfigured Kind = "guest agent not configured"
	// AgentNotRunning: the agent does not answer: not started yet, switched
	// off, hung, or the machine is paused.
	AgentNotRunning Kind = "guest agent not running"
	// AgentTimeout: the agent took the command and did not answer in time.
	AgentTimeout Kind = "guest agent timed out"
	// AgentError: the agent refused, with the message of the guest.
	AgentError Kind = "guest agent error"
	// NotASCII: the text would break the agent's channel; nothing was sent.
	NotASCII Kind = "not ASCII"
	// Unauthorized: the token or ticket is wrong, unknown or expired.
	Unauthorized Kind = "not authenticated"
	// Permission: Privilege is missing on Path; both may be unknown.
	Permission Kind = "permission denied"
	// Parameter: Params says which and why. Nothing was done.
	Parameter Kind = "invalid parameter"
	// TooLarge: more data than one call carries. Nothing was done.
	TooLarge Kind = "too large"
	// NotImplemented: this version of PVE has no such call.
	NotImplemented Kind = "no such call"
	// NoSpace: the storage, or memory, is full.
	NoSpace Kind = "no space"
	// StorageAway: the storage, if it is named, does not answer on that node.
	StorageAway Kind = "storage is not available"
	// Corrupt: what was downloaded has another checksum than was given.
	Corrupt Kind = "checksum mismatch"
	// NoQuorum: the cluster has lost its majority and refuses changes.
	NoQuorum Kind = "no quorum"
	// NodeUnreachable: the node that was asked could not reach the one meant.
	NodeUnreachable Kind = "node unreachable"
	// Interrupted: Proxmox gave up on its own worker (596), or a proxy did;
	// the call may have taken effect or may still do so.
	Interrupted Kind = "interrupted"
	// Unreachable: there was no connection. Nothing was done.
	Unreachable Kind = "unreachable"
	// ConnectionLost: the connection broke after the call was sent; it may
	// have taken effect.
	ConnectionLost Kind = "connection lost"
	// Untrusted: the server's certificate is not the one expected.
	Untrusted Kind = "certificate not trusted"
	// BadAnswer: what came back is not from Proxmox, or not understood.
	BadAnswer Kind = "unexpected answer"
	// TimedOut: a task gave up waiting, such as for a guest to shut down.
	TimedOut Kind = "timed out"
	// Aborted: the task was stopped from outside, or its worker died.
	Aborted Kind = "aborted"
	// Failed: anything else; Message says what.
	Failed Kind = "failed"
)

// Error makes a Kind an error.
func (k Kind) Error() string { return string(k) }

// Subject is what a NotFound, Exists, Locked, LockTimeout or StorageAway is
// about, and a Permission that is one of tags.
type Subject struct {
	Type string // vm, storage, pool, snapshot, task, node, volume, user, role, token, file, process, lock, tag
	Name string // may be empty
}

// Error is a call or a task that failed.
type Error struct {
	Kind    Kind
	Call    string // the call, without its parameters
	Task    UPID   // the task that failed, if one did
	Status  int    // of HTTP; 0 where there is none
	Message string // Proxmox's own words, never empty
	Subject Subject
	// Params says what is wrong with which parameter (Kind Parameter and some
	// others).
	Params map[string]string
	// Path and Privilege say what is missing where (Kind Permission).
	// Privilege may be several, separated by "|", of which one suffices.
	Path, Privilege string
	cause           error
}

// Error returns Proxmox's message with what it was about.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Call != "" {
		b.WriteString(e.Call + ": ")
	}
	if e.Task != "" {
		fmt.Fprintf(&b, "task %s: ", e.Task.Type())
	}
	b.WriteString(e.Message)
	for i, name := range slices.Sorted(maps.Keys(e.Params)) {
		sep := "; "
		if i == 0 {
			sep = " "
		}
		fmt.Fprintf(&b, "%s%s: %s", sep, name, e.Params[name])
	}
	return b.String()
}

// Unwrap makes errors.Is find the Kind, and the cause below it.
func (e *Error) Unwrap() []error {
	if e.cause != nil {
		return []error{e.Kind, e.cause}
	}
	return []error{e.Kind}
}

// Gone reports whether err says that this machine does not exist, and not
// merely something that it needs.
func Gone(err error, vm VM) bool { return about(err, NotFound, Subject{"vm", fmt.Sprint(vm.ID)}) }

// Held reports whether err says that another task holds the lock of the VMID,
// which need not have a machine yet.
func Held(err error, vmid int) bool { return about(err, LockTimeout, Subject{"vm", fmt.Sprint(vmid)}) }

// Taken reports whether err says that the VMID is in use.
func Taken(err error, vmid int) bool { return about(err, Exists, Subject{"vm", fmt.Sprint(vmid)}) }

// Lost reports whether a call that failed with err may have taken effect.
func Lost(err error) bool { return is(err, ConnectionLost, Interrupted) }
