package keep

import "github.com/agentlab-mcp/agentlab/provisioner/guest"

// clip keeps the beginning and the end of a stream, half of max bytes each.
type clip struct {
	max   int
	head  []byte
	tail  []byte // a ring once it is full
	next  int    // where the ring goes on
	total int64
}

func (c *clip) Write(b []byte) {
	c.total += int64(len(b))
	n := min(len(b), c.max/2-len(c.head))
	c.head, b = append(c.head, b[:n]...), b[n:]
	room := c.max - c.max/2
	if len(b) > room {
		b = b[len(b)-room:]
	}
	n = min(len(b), room-len(c.tail))
	c.tail, b = append(c.tail, b[:n]...), b[n:]
	for len(b) > 0 {
		n := copy(c.tail[c.next:], b)
		c.next, b = (c.next+n)%room, b[n:]
	}
}

// Clip returns what was kept: all of it if nothing was left out.
func (c *clip) Clip() guest.Clip {
	tail := append(c.tail[c.next:len(c.tail):len(c.tail)], c.tail[:c.next]...)
	if c.total <= int64(c.max) {
		return guest.Clip{Head: append(c.head, tail...), Total: c.total}
	}
	return guest.Clip{Head: c.head, Tail: tail, Total: c.total}
}
