package pve

import "time"

// SetLimits makes a call end after limit, and answers longer than longest fail.
func (h *HTTPS) SetLimits(limit time.Duration, longest int64) { h.limit, h.longest = limit, longest }
