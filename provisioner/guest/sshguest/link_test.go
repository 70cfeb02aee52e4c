package sshguest

import (
	"encoding/json"
	"net"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// A guest that answers and hangs up at once, as it does when its keys are
// replaced, has answered.
func TestAnswerBeforeTheEnd(t *testing.T) {
	nc, far := net.Pipe()
	defer far.Close()
	l := newLink(nc, nil, time.Minute)
	l.fail(net.ErrClosed)
	for range 100 {
		answer := make(chan wire.Answer, 1)
		answer <- wire.Answer{Result: json.RawMessage("1")}
		if got, err := l.await(t.Context(), 1, answer); err != nil || string(got) != "1" {
			t.Fatalf("answer %q, error %v", got, err)
		}
	}
}
