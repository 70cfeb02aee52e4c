package agentconn

import "time"

// SetBeginTime sets how long a command may take to begin.
func (c *Conn) SetBeginTime(d time.Duration) { c.beginTime = d }

// AdoptTime is how long a look at the config holds good.
const AdoptTime = adoptTime

// Script is the text of one of ours.
func Script(name string) string { return text(name) }
