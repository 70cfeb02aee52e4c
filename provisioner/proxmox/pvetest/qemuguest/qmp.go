package qemuguest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpPatience is how long QEMU may take to answer; it does so at once unless
// the host is busy.
const qmpPatience = time.Minute

// qmp is a connection to QEMU's monitor.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	dec  *json.Decoder
}

// newQMP takes QEMU's greeting: QEMU is up then.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, dec: json.NewDecoder(conn)}
	_ = conn.SetDeadline(time.Now().Add(qmpPatience))
	var greeting struct{ QMP json.RawMessage }
	if err := q.dec.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("greeting of QEMU: %w", err)
	}
	return q, q.execute("qmp_capabilities")
}

// execute runs a command that has neither arguments nor an answer of interest.
func (q *qmp) execute(command string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	_ = q.conn.SetDeadline(time.Now().Add(qmpPatience))
	if err := json.NewEncoder(q.conn).Encode(map[string]string{"execute": command}); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := q.dec.Decode(&reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("%s: %w", command, errors.New(reply.Error.Desc))
		case reply.Return != nil:
			return nil
		} // else it is an event
	}
}
