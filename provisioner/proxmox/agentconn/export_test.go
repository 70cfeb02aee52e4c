package agentconn

import "time"

// SetBeginTime sets how long a command may take to begin.
func (c *Conn) SetBeginTime(d time.Duration) { c.beginTime = d }
