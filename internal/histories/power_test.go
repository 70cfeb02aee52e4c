package histories

import (
	"context"
	"slices"

	"github.com/agentlab-mcp/agentlab/sessions"
)

func (c *call) off(ctx context.Context) (string, error) {
	c.locked(func() {
		if c.own() { // with all that runs
			c.box.processes = nil
		}
	})
	return c.turn(func() (sessions.Sandbox, error) { return c.daemon.Stop(ctx, c.id(), c.time) }, sessions.Stopping, sessions.Stopped)
}

func (c *call) hold(ctx context.Context) (string, error) {
	return c.turn(func() (sessions.Sandbox, error) { return c.daemon.Pause(ctx, c.id()) }, sessions.Suspended)
}

func (c *call) on(ctx context.Context) (string, error) {
	return c.turn(func() (sessions.Sandbox, error) { return c.daemon.Start(ctx, c.id(), c.time) },
		sessions.Starting, sessions.Ready, sessions.Running)
}

// turn switches the machine, and looks whether it is in one of these states then,
// if nobody else has switched it meanwhile.
func (c *call) turn(do func() (sessions.Sandbox, error), states ...sessions.State) (string, error) {
	var turned int
	c.locked(func() {
		if c.own() {
			c.box.turned++
			c.box.turning++
			turned, c.box.off = c.box.turned, true
		}
	})
	sb, err := do()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own() {
		c.box.turning--
	}
	void := c.failed(err)
	if !c.own() {
		if !c.daemon.isDead() && !isKind(err, sessions.NotFound) {
			c.broke("%v: another's: %v", c.step, err)
		}
		return "", err
	}
	if void {
		return "", err
	}
	c.told(c.who, sb)
	alone := c.box.turning == 0 && c.box.turned == turned && !c.box.doubt
	if alone && !slices.Contains(states, sb.State) {
		c.broke("%v: it is %s (%s)", c.step, sb.State, sb.Reason)
	}
	if alone && usable(sb) {
		c.box.off = false
	}
	return string(sb.State), nil
}
