package wire

import (
	"io"
	"net"
)

// Connect is the type of an SSH channel in which the host makes one more
// connection to agentlab-guest, where it can reach no socket.
const Connect = "connect@agentlab"

// Channel returns a connection over an SSH channel. Other than the channel it
// has deadlines, and to close it ends at once what waits on it, whether or not
// the far side still answers.
func Channel(ch io.ReadWriteCloser) net.Conn {
	ours, inner := net.Pipe()
	go func() {
		_, _ = io.Copy(inner, ch) // either end may close when it likes
		_ = inner.Close()
	}()
	go func() {
		_, _ = io.Copy(ch, inner)
		_ = ch.Close()
	}()
	return ours
}
