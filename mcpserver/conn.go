package mcpserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// Limits of one connection.
const (
	maxLine   = 32 << 20 // bytes of a message
	maxCalls  = 100      // tool calls at a time
	maxOthers = 20       // other requests at a time, and calls of urgent tools
	maxBytes  = 96 << 20 // of requests being served
)

// conn is one client: what it has running, by the ids that it chose. Where its
// messages come from and go to is the transport's: a socket, a stream of
// events, or a response of its own for each request.
//
// It is also the session that mcp-go broadcasts to.
type conn struct {
	srv    *Server
	id     string
	ctx    context.Context    // ends with the client
	cancel context.CancelFunc // ends the connection and all its calls
	out    *outlet            // of requests that have none of their own
	share  *share             // of its principal in what the server can do; nil is no limit

	closing sync.Once
	running sync.WaitGroup               // the requests that admit let in
	notes   chan mcp.JSONRPCNotification // what belongs to no request
	level   atomic.Pointer[mcp.LoggingLevel]

	mu     sync.Mutex
	shut   bool // no more requests are served
	calls  map[string]*call
	count  [2]int // calls running: ordinary, others
	volume int    // bytes of their requests
	asked  int    // requests that we made of the client
	asks   map[string]chan message

	watched map[string]*watched        // resources, by URI
	shown   atomic.Pointer[credential] // last; nil is that none was asked for
}

// connect returns a new client, whose calls end with ctx at the latest.
func (s *Server) connect(ctx context.Context, of *share) *conn {
	c := &conn{
		srv: s, id: rand.Text(), share: of.hold(),
		notes: make(chan mcp.JSONRPCNotification, 8),
		calls: map[string]*call{}, asks: map[string]chan message{},
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	s.conns.Add(1)
	context.AfterFunc(c.ctx, func() { s.conns.Add(-1) })
	return c
}

// close ends the client and its calls. It may be repeated: both a session and
// the stream that it is heard on can end first.
func (c *conn) close() {
	c.closing.Do(func() {
		c.cancel()
		c.srv.mcp.UnregisterSession(c.ctx, c.id)
		c.share.letGo()
	})
}

// name is what the log calls the client. Over HTTP the id itself is a secret.
func (c *conn) name() string { return c.id[:min(len(c.id), 8)] }

// SessionID is part of server.ClientSession.
func (c *conn) SessionID() string { return c.id }

// NotificationChannel is part of server.ClientSession.
func (c *conn) NotificationChannel() chan<- mcp.JSONRPCNotification { return c.notes }

// Initialize is part of server.ClientSession.
func (c *conn) Initialize() {}

// Initialized is part of server.ClientSession: it is registered from when the
// client has said so.
func (c *conn) Initialized() bool { return true }

// handle serves one message, a request by itself. ctx says who sent it.
func (c *conn) handle(ctx context.Context, line []byte) {
	msg, problem := parse(line)
	switch {
	case problem != nil:
		c.reject(msg.ID, problem)
	case msg.Method != "" && msg.ID != nil:
		c.start(ctx, msg, line)
	default:
		c.note(msg)
	}
}

// note takes a message that wants no answer.
func (c *conn) note(msg message) {
	switch msg.Method {
	case "": // an answer
		c.answered(msg)
	case "notifications/cancelled":
		c.cancelCall(key(msg.Params.RequestID))
	case "notifications/initialized":
		_ = c.srv.mcp.RegisterSession(c.ctx, c) // fails for one that says it twice
	}
}

// start serves a request by itself.
func (c *conn) start(ctx context.Context, msg message, line []byte) {
	r := newCall(c, c.out, msg, len(line))
	if problem := c.admit(r); problem != nil {
		r.cancel()
		id := r.ID
		if problem.Code == mcp.INVALID_REQUEST {
			id = nil // it belongs to the request that is running
		}
		c.reject(id, problem)
		return
	}
	go c.run(ctx, r, line)
}

// admit registers a request, or says why it can't be served now. What must get
// through has room of its own.
func (c *conn) admit(r *call) *mcp.JSONRPCErrorDetails {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[key(r.ID)]; ok {
		return &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: fmt.Sprintf("a request with id %s is being served", r.ID)}
	}
	if c.shut {
		return ending()
	}
	class, limit := c.class(r)
	if c.count[class] >= limit {
		return c.share.much("connection_calls", time.Second, "this connection has %d calls running already, the most there may be at a time; wait for some to end, or run commands with wait_seconds=0", limit)
	}
	if class == 0 && c.volume+r.size > maxBytes {
		return c.share.tooMuchToRead(int64(c.volume))
	}
	if problem := c.share.enter(class); problem != nil {
		return problem
	}
	if r.listens() {
		if problem := c.share.listen(); problem != nil {
			c.share.leave(class)
			return problem
		}
	}
	c.running.Add(1)
	c.calls[key(r.ID)] = r
	c.count[class]++
	c.volume += r.size
	return nil
}

// busy is the code of JSON-RPC errors that say to try again later.
const busy = -32000

// class returns which of the limits holds for a request.
func (c *conn) class(r *call) (class, limit int) {
	switch method := mcp.MCPMethod(r.Method); {
	case method == mcp.MethodToolsCall && !c.srv.byName[r.Params.Name].Urgent,
		method == mcp.MethodResourcesRead, method == mcp.MethodCompletionComplete: // may wait for a sandbox
		return 0, maxCalls
	}
	return 1, maxOthers
}

// release gives back the room that a request had. It comes after its answer is
// written, so that answers which a slow client lets wait are counted too.
func (c *conn) release(r *call) {
	defer c.running.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	class, _ := c.class(r)
	c.count[class]--
	c.volume -= r.size
	c.share.leave(class)
	if r.listens() {
		c.share.unlisten()
	}
}

// cancelCall ends a call; nothing more is sent for it. One that is unknown has
// ended already.
func (c *conn) cancelCall(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.calls[key]; ok {
		r.cancelled.Store(true)
		r.cancel()
	}
}

// wait lets no more requests in and returns when those that were are answered.
func (c *conn) wait() {
	c.mu.Lock()
	c.shut = true
	c.mu.Unlock()
	c.running.Wait()
}

// drain ends what would not end by itself and is wait for the rest.
func (c *conn) drain() {
	c.mu.Lock()
	c.shut = true
	for _, r := range c.calls {
		if r.listens() {
			r.cancel()
		}
	}
	c.mu.Unlock()
	c.wait()
}

// reject answers with a JSON-RPC error. A nil id is sent as null.
func (c *conn) reject(id json.RawMessage, problem *mcp.JSONRPCErrorDetails) {
	c.srv.limited(problem)
	c.out.send(nil, c.encode(refusal(id, problem)), nil)
}

// encode returns a message as a line.
func (c *conn) encode(msg any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(msg); err != nil {
		c.srv.Log.Error("encode message", "conn", c.name(), "err", err)
	}
	return b.Bytes()
}
