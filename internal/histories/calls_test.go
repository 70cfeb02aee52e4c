package histories

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// call is what a principal asked for, and under which circumstances.
type call struct {
	*player
	step
	who    string
	daemon *daemon
	box    *box      // that it is about; nil is one that never was
	begun  time.Time // by the clock of ends
	before int       // times that the clock had jumped then
	safe   bool      // the box was certain then
	turned int       // how often it had been switched then
}

// sound says that the box was certain when the call was made, and nobody has
// switched it since.
func (c *call) sound() bool { return c.safe && c.box.turned == c.turned }

// jumped says that the clock has jumped since it was made.
func (c *call) jumped() bool { return c.leaps != c.before }

// stranger is an id that was never given.
const stranger = "sb-aaaaaaaaaaaaaaaaaaaa"

func (c *call) id() string {
	if c.box == nil {
		return stranger
	}
	return c.box.id
}

func (c *call) own() bool { return c.box != nil && c.box.owner == c.who }

// limits are how long each call may take in all. A call that was let wait may
// take so much longer.
var limits = map[verb]time.Duration{
	create: 50 * time.Second, invalid: 30 * time.Second, exec: callLimit + slack, start: callLimit + slack, read: callLimit + slack, extend: callLimit + slack,
	off: callLimit + slack, on: callLimit + slack, hold: callLimit + slack,
	destroy: 31 * time.Second, unknown: 31 * time.Second, list: time.Second,
}

// callLimit is the deadline of every call, as mcpserver sets it. One that it ends
// may take slack more, to end what it has begun in the guest.
const (
	callLimit = 2 * time.Minute
	slack     = 10 * time.Second
)

// calls say how each is made. They return what came of it, for people; the model
// is locked when they look at it.
var calls = map[verb]func(*call, context.Context) (string, error){
	create: (*call).create, invalid: (*call).invalid, exec: (*call).exec, start: (*call).start, read: (*call).read,
	off: (*call).off, on: (*call).on, hold: (*call).hold,
	extend: (*call).extend, destroy: (*call).destroy, unknown: (*call).destroy, list: (*call).list,
}

// failed looks at an error. It says whether the rest of the answer is void.
func (c *call) failed(err error) bool {
	var e *sessions.Error
	switch {
	case c.daemon.isDead(): // nobody hears an answer
		return true
	case err == nil:
		return false
	case errors.Is(err, context.DeadlineExceeded) && !c.calm:
	case !errors.As(err, &e):
		c.broke("%v: an error that is none of ours: %v", c.step, err)
	case e.Kind == sessions.Internal:
		c.broke("%v: an internal error: %v", c.step, err)
	case c.calm && e.Kind == sessions.Unavailable && !c.daemon.stopping() && (c.box == nil || c.sound()):
		c.broke("%v: unavailable, though nothing is wrong: %v", c.step, err)
	}
	return true
}

func isKind(err error, kind sessions.Kind) bool {
	var e *sessions.Error
	return errors.As(err, &e) && e.Kind == kind
}

func (c *call) create(ctx context.Context) (string, error) {
	ttl := ttls[c.n]
	c.locked(func() { c.asked[c.who]++ })
	sb, existing, err := c.daemon.Create(ctx, sessions.CreateRequest{Name: c.name, TTL: ttl, Wait: c.time})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && sb.ID != "" && !c.daemon.isDead() {
		b := c.told(c.who, sb)
		switch {
		case existing:
			c.asked[c.who]-- // it made none
		case ttl != 0 && !sb.End.Equal(sb.Created.Add(ttl)) && b.extends == 0 && !c.jumped():
			c.broke("%v: it ends at %v, made at %v", c.step, sb.End, sb.Created)
		}
		if sb.Name != c.name {
			c.broke("%v: its name is %q", c.step, sb.Name)
		}
		return sb.ID + " " + string(sb.State), nil
	}
	refused := isKind(err, sessions.Exhausted) && strings.HasPrefix(err.Error(), "quota: ")
	if refused && c.atMost(c.who) <= quota.Sandboxes { // one of them is the one that was refused
		c.broke("%v: refused, and there are at most %d: %v", c.step, c.atMost(c.who)-1, err)
	}
	if refused {
		c.asked[c.who]--
	}
	if isKind(err, sessions.Conflict) { // one of that name is returned, and no conflict
		c.broke("%v: %v", c.step, err)
	}
	c.failed(err)
	return "", err
}

// invalid asks for what can't be had.
func (c *call) invalid(ctx context.Context) (string, error) {
	wrong := []sessions.CreateRequest{
		{TTL: 3 * time.Hour}, {TTL: time.Second}, {Name: "No Name!"}, {Profile: "none"}, {MemoryMB: 1}, {Cores: -1}, {DiskMB: 1 << 30}, {Network: "all"},
	}
	_, _, err := c.daemon.Create(ctx, wrong[c.n%len(wrong)])
	c.mu.Lock()
	defer c.mu.Unlock()
	if !isKind(err, sessions.Invalid) && !c.daemon.isDead() && !isKind(err, sessions.Unavailable) {
		c.broke("%v: %v", c.step, err)
	}
	c.failed(err)
	return "", err
}

// use is Use, and looks at its error.
func (c *call) use(ctx context.Context, f func(context.Context, guest.Conn) error) error {
	err := c.daemon.Use(ctx, c.id(), c.time, func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error { return f(ctx, conn) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if !c.own() || c.box.over && !c.safe {
			c.broke("%v: it was done in %s", c.step, c.id())
		}
		return nil
	}
	if c.failed(err) && !c.daemon.isDead() && c.own() && c.sound() && c.box.certain(c.lab.now()) && isKind(err, sessions.NotFound) {
		c.broke("%v: %v, but it must live until %v", c.step, err, c.box.due)
	}
	if !c.own() && !c.daemon.isDead() && !isKind(err, sessions.NotFound) {
		c.broke("%v: another's: %v", c.step, err)
	}
	return err
}

func (c *call) exec(ctx context.Context) (string, error) {
	var out bytes.Buffer
	err := c.use(ctx, func(ctx context.Context, conn guest.Conn) error {
		_, err := conn.Run(ctx, guest.Cmd{Args: []string{"echo", "done"}}, guest.Streams{Stdout: &out})
		return err
	})
	if err == nil && out.String() != "done" {
		c.locked(func() { c.broke("%v: its output is %q", c.step, out.String()) })
	}
	return out.String(), err
}

func (c *call) start(ctx context.Context) (string, error) {
	var id string
	err := c.use(ctx, func(ctx context.Context, conn guest.Conn) error {
		p, _, err := conn.Processes().Start(ctx, guest.Cmd{Args: []string{"count"}}, guest.StartOptions{Wait: time.Second})
		id = p.ID
		return err
	})
	if err == nil {
		c.locked(func() {
			if c.box.turned == c.turned { // else it may have ended with the machine
				c.box.processes = append(c.box.processes, &process{id: id})
			}
		})
	}
	return id, err
}

// read reads on where the last read has ended.
func (c *call) read(ctx context.Context) (string, error) {
	var p *process
	var from int64
	c.locked(func() {
		if c.box != nil && len(c.box.processes) > 0 {
			p = c.box.processes[c.n%len(c.box.processes)]
			from = p.next
		}
	})
	if p == nil {
		return "there is nothing to read", nil
	}
	var out guest.Output
	err := c.use(ctx, func(ctx context.Context, conn guest.Conn) (err error) {
		_, out, err = conn.Processes().Read(ctx, p.id, guest.ReadRequest{Offset: from, Max: 2000, Wait: 2 * time.Second})
		return err
	})
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if want := printed(out.Offset, int64(len(out.Both))); out.Offset != from || string(out.Both) != want {
		c.broke("%v: from %d on it read %q at %d, want %q", c.step, from, out.Both, out.Offset, want)
	}
	if p.next == from { // else another has read on meanwhile
		p.next = out.Next
	}
	return p.id, nil
}

// printed is what a process prints from an offset on.
func printed(off, n int64) string {
	var all strings.Builder
	for i := off / lineLen; i <= (off+n)/lineLen; i++ {
		all.WriteString(line(i))
	}
	return all.String()[off%lineLen:][:n]
}

func (c *call) extend(ctx context.Context) (string, error) {
	c.locked(func() {
		if c.own() {
			c.box.extends++
			c.box.due = earlier(c.box.due, c.begun.Add(c.time))
		}
	})
	sb, err := c.daemon.Extend(ctx, c.id(), c.time)
	c.mu.Lock()
	defer c.mu.Unlock()
	void := c.failed(err)
	if !c.own() {
		if !c.daemon.isDead() && !isKind(err, sessions.NotFound) {
			c.broke("%v: another's: %v", c.step, err)
		}
		return "", err
	}
	c.box.extends--
	c.box.extended = time.Now()
	if !void {
		c.told(c.who, sb)
		first, last := c.begun.Add(c.time), c.lab.now().Add(c.time)
		if !c.jumped() && (sb.End.Before(first) || sb.End.After(last)) {
			c.broke("%v: it ends at %v, not from %v to %v", c.step, sb.End, first, last)
		}
	}
	if c.box.extends == 0 { // what holds is known again
		if rec, rerr := c.daemon.db.Sandbox(context.WithoutCancel(ctx), c.box.id); rerr == nil {
			if rec.End.Before(c.box.due) {
				c.broke("%v: it ends at %v, before %v", c.step, rec.End, c.box.due)
			}
			c.box.due = rec.End
		}
	}
	return sb.End.String(), err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (c *call) destroy(ctx context.Context) (string, error) {
	c.locked(func() {
		if c.own() {
			c.box.doubt = true
		}
	})
	gone, err := c.daemon.Destroy(ctx, c.id())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed(err) {
		return "", err
	}
	if c.own() {
		c.box.over = true
	} else if !gone {
		c.broke("%v: %s was there for it", c.step, c.id())
	}
	return map[bool]string{true: "there was none", false: "destroyed"}[gone], nil
}

func (c *call) list(ctx context.Context) (string, error) {
	var certain []*box
	c.locked(func() { certain = c.sure(c.who, c.begun) })
	all, err := c.daemon.List(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed(err) {
		return "", err
	}
	c.listed(c.who, all, certain, c.lab.now())
	var ids []string
	for _, sb := range all {
		ids = append(ids, sb.ID)
	}
	return strings.Join(ids, " "), nil
}
