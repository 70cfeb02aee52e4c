package agentconn

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Switch says when a guest is to power itself off if it was told nothing else
// until then: a dead man's switch.
type Switch struct {
	ID    string        // sixteen hexadecimal digits; armed with the same again, it goes on as it was
	After time.Duration // of running, in whole seconds
}

// seconds has at most ten digits, as many as there is room for.
func (s Switch) seconds() string {
	return strconv.FormatInt(int64(max(s.After, time.Second)/time.Second), 10)
}

// Arm arms the guest's switch, and puts it there if need be.
func (c *Conn) Arm(ctx context.Context, s Switch) error {
	if _, err := c.do(ctx, "arm", []byte(text("switch")), s.ID, s.seconds()); err != nil {
		return fmt.Errorf("arm the guest's switch: %w", err)
	}
	return nil
}
