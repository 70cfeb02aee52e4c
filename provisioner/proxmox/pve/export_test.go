package pve

import "time"

// LocalWith returns the Shell of this node that takes so much output.
func LocalWith(longest int64) Local { return Local{longest: longest} }

// SetLongest makes longer outputs fail.
func (s *SSH) SetLongest(longest int64) { s.longest = longest }

// SetLimits makes a call end after limit, and answers longer than longest fail.
func (h *HTTPS) SetLimits(limit time.Duration, longest int64) { h.limit, h.longest = limit, longest }
