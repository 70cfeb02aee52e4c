package sessions

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// lines are the open channels to guests, one a sandbox, shared by all who use
// it: dialled once, closed when the sandbox ends or nobody has used it for a
// while.
type lines struct {
	idle  time.Duration
	uses  int
	spawn func(func(context.Context)) bool

	mu      sync.Mutex
	byID    map[string]*line
	used    map[string]time.Time     // by id: when the last use ended
	asking  map[string]bool          // whose guests are being asked what runs
	retired map[string]chan struct{} // which are about to end, closed when that is decided
}

// line is the channel to one sandbox. Its ctx ends with the sandbox, and its
// cause is the error that says how.
type line struct {
	ctx   context.Context
	cut   context.CancelCauseFunc
	slots chan struct{} // one a use

	pins  int         // who holds it; guarded by lines.mu
	timer *time.Timer // closes it when idle; guarded by lines.mu

	mu   sync.Mutex
	call *call // the latest attempt to dial; nil if that failed
}

// call is one attempt to dial.
type call struct {
	done chan struct{} // closed when conn and err are set
	conn guest.Conn
	err  error
}

// errExchanged: the channel was replaced while it was being dialled.
var errExchanged = errors.New("channel replaced meanwhile")

// pin returns the line of a sandbox and keeps it until unpin. Pin first and
// read the record then: whoever ends the sandbox changes the record first and
// cuts the line then, so that either the reader sees that or its line is cut.
// It waits as long as the line is retired.
func (ls *lines) pin(id string) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for decided := ls.retired[id]; decided != nil; decided = ls.retired[id] {
		ls.mu.Unlock()
		<-decided
		ls.mu.Lock()
	}
	l := ls.byID[id]
	if l == nil {
		l = &line{slots: make(chan struct{}, ls.uses)}
		l.ctx, l.cut = context.WithCancelCause(context.Background())
		if ls.byID == nil {
			ls.byID = map[string]*line{}
		}
		ls.byID[id] = l
	}
	l.pins++
	if l.timer != nil {
		l.timer.Stop()
	}
	return l
}

// unpin gives the line back. The last one to do so leaves it to the idle timer.
func (ls *lines) unpin(id string, l *line) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.pins--
	switch {
	case l.pins > 0 || ls.byID[id] != l: // in use, or cut
	case !l.dialled():
		delete(ls.byID, id)
		l.cut(nil)
	default:
		l.timer = time.AfterFunc(ls.idle, func() { ls.hangUp(id, l) })
	}
}

// hangUp closes a line that has been idle, unless it was taken up again.
func (ls *lines) hangUp(id string, l *line) {
	ls.mu.Lock()
	idle := l.pins == 0 && ls.byID[id] == l
	if idle {
		delete(ls.byID, id)
	}
	ls.mu.Unlock()
	if idle {
		l.close(nil)
	}
}

// end cuts the line of a sandbox: who uses it is cancelled with this cause.
func (ls *lines) end(id string, cause error) {
	ls.mu.Lock()
	l := ls.byID[id]
	delete(ls.byID, id)
	delete(ls.used, id)
	if l != nil && l.timer != nil {
		l.timer.Stop()
	}
	ls.mu.Unlock()
	if l != nil {
		l.close(cause)
	}
}

// endAll cuts all lines.
func (ls *lines) endAll(cause error) {
	ls.mu.Lock()
	ids := make([]string, 0, len(ls.byID))
	for id := range ls.byID {
		ids = append(ids, id)
	}
	ls.mu.Unlock()
	for _, id := range ids {
		ls.end(id, cause)
	}
}

// conn returns the channel, dialling it if nobody has. The dialling is shared,
// so it is not cancelled by the ctx of the one who happened to begin it.
func (ls *lines) conn(ctx context.Context, l *line, limit time.Duration, dial func(context.Context) (guest.Conn, error)) (guest.Conn, error) {
	l.mu.Lock()
	c, ok := l.call, true
	if c == nil {
		c, ok = ls.begin(l, limit, func(its context.Context) (guest.Conn, error) { return dial(span.Join(its, ctx)) })
	}
	l.mu.Unlock()
	if !ok {
		return nil, errStopping
	}
	return l.wait(ctx, c)
}

// exchange replaces the channel by the one that remake returns, which is given
// the old one, nil if there is none, and closes it.
func (ls *lines) exchange(ctx context.Context, l *line, limit time.Duration, remake func(context.Context, guest.Conn) (guest.Conn, error)) (guest.Conn, error) {
	l.mu.Lock()
	old := l.call.got()
	c, ok := ls.begin(l, limit, func(its context.Context) (guest.Conn, error) { return remake(span.Join(its, ctx), old) })
	l.mu.Unlock()
	if !ok {
		return nil, errStopping
	}
	return l.wait(ctx, c)
}

// begin begins an attempt to dial; not if we are stopping. The caller holds l.mu.
func (ls *lines) begin(l *line, limit time.Duration, dial func(context.Context) (guest.Conn, error)) (c *call, ok bool) {
	c = &call{done: make(chan struct{})}
	if ok = ls.spawn(func(context.Context) { l.dial(c, limit, dial) }); ok {
		l.call = c
	}
	return c, ok
}

// got returns the connection, nil if there is none yet.
func (c *call) got() guest.Conn {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.conn
	default:
		return nil
	}
}

func (l *line) wait(ctx context.Context, c *call) (guest.Conn, error) {
	select {
	case <-c.done:
		return c.conn, c.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.ctx.Done():
		return nil, context.Cause(l.ctx)
	}
}

func (l *line) dial(c *call, limit time.Duration, dial func(context.Context) (guest.Conn, error)) {
	ctx, cancel := context.WithTimeout(l.ctx, limit)
	defer cancel()
	c.conn, c.err = dial(ctx)
	conn := c.conn
	l.mu.Lock()
	late := false
	switch {
	case c.err != nil:
	case l.ctx.Err() != nil: // cut meanwhile: close has not seen this connection
		late, c.err = true, context.Cause(l.ctx)
	case l.call != c:
		late, c.err = true, errExchanged
	}
	if c.err != nil {
		c.conn = nil
		if l.call == c {
			l.call = nil // the next one tries again
		}
	}
	close(c.done)
	l.mu.Unlock()
	if late {
		conn.Close()
	}
}

// dialled says whether there is, or may soon be, a connection.
func (l *line) dialled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.call != nil
}

// close cancels all who use the line and closes the connection.
func (l *line) close(cause error) {
	l.cut(cause)
	l.mu.Lock()
	conn := l.call.got()
	l.mu.Unlock()
	if conn != nil { // else dial closes it
		conn.Close()
	}
}
