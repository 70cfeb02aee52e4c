package pve

import "strings"

// UPID names a task: UPID:node:pid:pstart:starttime:type:id:user:
type UPID string

func (u UPID) part(i int) string {
	parts := strings.SplitN(string(u), ":", 9)
	if len(parts) != 9 || parts[0] != "UPID" {
		return ""
	}
	return parts[i]
}

// Node is the node on which the task runs, "" if u is not a task id.
func (u UPID) Node() string { return u.part(1) }

// Type is what the task does: qmclone, qmstart, qmdestroy...
func (u UPID) Type() string { return u.part(5) }

// ID is what the task works on, mostly a VMID; of a clone it is the source.
func (u UPID) ID() string { return u.part(6) }
