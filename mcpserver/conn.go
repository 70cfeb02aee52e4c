package mcpserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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

// conn is one client: it reads messages, lets each request run by itself, and
// writes what they answer, whole and one after the other.
type conn struct {
	srv    *Server
	nc     *net.UnixConn
	id     string
	cancel context.CancelFunc // ends the connection and all its calls

	running sync.WaitGroup
	writing sync.Mutex

	mu     sync.Mutex
	calls  map[string]*call
	count  [2]int // calls running: ordinary, others
	volume int    // bytes of their requests
}

// call is a request being served. It is also the session that mcp-go wants of
// a client, so that what is sent for one request is sent before its answer.
type call struct {
	message
	conn      *conn
	size      int
	cancel    context.CancelFunc
	cancelled atomic.Bool
	notes     chan mcp.JSONRPCNotification
}

// SessionID is part of server.ClientSession.
func (c *call) SessionID() string { return c.conn.id }

// NotificationChannel is part of server.ClientSession.
func (c *call) NotificationChannel() chan<- mcp.JSONRPCNotification { return c.notes }

// Initialize is part of server.ClientSession.
func (c *call) Initialize() {}

// Initialized is part of server.ClientSession. What is sent belongs to a
// request of the client's own, which is enough to know that it listens.
func (c *call) Initialized() bool { return true }

// serve serves one client until it is gone. A client that has closed only its
// writing side still gets the answers to what it had asked; when it is gone
// altogether, its calls are cancelled.
func (s *Server) serve(ctx context.Context, nc *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	c := &conn{srv: s, nc: nc, id: rand.Text()[:8], cancel: cancel, calls: map[string]*call{}}
	c.write([]byte("agentlab " + s.Version + "\n"))
	if err := c.read(ctx); err != nil {
		s.Log.Debug("connection broke", "conn", c.id, "err", err)
		cancel()
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		if hungUp(nc) == nil {
			cancel()
		}
	})
	c.running.Wait()
	_ = nc.Close()
	watch.Wait()
}

// read serves messages until the client sends no more.
func (c *conn) read(ctx context.Context) error {
	lines := &lineReader{src: bufio.NewReaderSize(c.nc, 64<<10), max: maxLine}
	for {
		line, err := lines.next()
		var long *tooLong
		switch {
		case errors.As(err, &long):
			c.reject(long.id(), mcp.INVALID_REQUEST, fmt.Sprintf("message of more than %d MiB; write large files in parts, with append", maxLine>>20))
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(bytes.TrimSpace(line)) > 0:
			c.handle(ctx, line)
		}
	}
}

// handle serves one message.
func (c *conn) handle(ctx context.Context, line []byte) {
	msg, problem := parse(line)
	switch {
	case problem != nil:
		c.reject(msg.ID, problem.Code, problem.Message)
	case msg.Method == "": // an answer, and we ask nothing
	case msg.ID != nil:
		c.start(ctx, msg, line)
	case msg.Method == "notifications/cancelled":
		c.cancelCall(key(msg.Params.RequestID))
	}
}

// start serves a request by itself.
func (c *conn) start(ctx context.Context, msg message, line []byte) {
	ctx, cancel := context.WithCancel(ctx)
	r := &call{message: msg, conn: c, size: len(line), cancel: cancel, notes: make(chan mcp.JSONRPCNotification, 8)}
	if problem := c.admit(r); problem != nil {
		cancel()
		id := r.ID
		if problem.Code == mcp.INVALID_REQUEST {
			id = nil // it belongs to the request that is running
		}
		c.reject(id, problem.Code, problem.Message)
		return
	}
	c.running.Go(func() {
		defer c.release(r)
		defer cancel()
		var sent sync.WaitGroup
		sent.Go(func() {
			for n := range r.notes {
				c.send(r, n)
			}
		})
		answer := c.srv.dispatch(ctx, r, line)
		close(r.notes) // nobody sends for a call that has returned
		sent.Wait()
		c.answer(r, withID(answer, r.ID))
	})
}

// dispatch has mcp-go serve a request, and survives its panic.
func (s *Server) dispatch(ctx context.Context, r *call, line []byte) (answer mcp.JSONRPCMessage) {
	ctx = context.WithValue(s.mcp.WithContext(ctx, r), requestKey{}, r.conn.id+" "+string(r.ID))
	defer func() {
		if v := recover(); v != nil {
			text := fmt.Sprintf("internal error (ref %s)", s.panicked(ctx, v))
			answer = mcp.JSONRPCError{Error: mcp.NewJSONRPCErrorDetails(mcp.INTERNAL_ERROR, text, nil)}
		}
	}()
	return s.mcp.HandleMessage(ctx, line)
}

type requestKey struct{}

// requestID names a request in the log: its connection and the client's id.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id[:min(len(id), 60)]
}

// admit registers a request, or says why it can't be served now. What must get
// through has room of its own.
func (c *conn) admit(r *call) *mcp.JSONRPCErrorDetails {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[key(r.ID)]; ok {
		return &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: fmt.Sprintf("a request with id %s is being served", r.ID)}
	}
	class, limit := c.class(r)
	if c.count[class] >= limit || class == 0 && c.volume+r.size > maxBytes {
		return &mcp.JSONRPCErrorDetails{Code: busy, Message: fmt.Sprintf("this connection has %d calls running already; wait for some to end, or run commands with wait_seconds=0", c.count[class])}
	}
	c.calls[key(r.ID)] = r
	c.count[class]++
	c.volume += r.size
	return nil
}

// busy is the code of JSON-RPC errors that say to try again later.
const busy = -32000

// class returns which of the limits holds for a request.
func (c *conn) class(r *call) (class, limit int) {
	if r.Method == string(mcp.MethodToolsCall) && !c.srv.urgent[r.Params.Name] {
		return 0, maxCalls
	}
	return 1, maxOthers
}

// release gives back the room that a request had. It comes after its answer is
// written, so that answers which a slow client lets wait are counted too.
func (c *conn) release(r *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	class, _ := c.class(r)
	c.count[class]--
	c.volume -= r.size
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

// reject answers with a JSON-RPC error. A nil id is sent as null.
func (c *conn) reject(id json.RawMessage, code int, text string) {
	c.send(nil, withID(mcp.JSONRPCError{Error: mcp.NewJSONRPCErrorDetails(code, text, nil)}, id))
}

// send writes a message for a request, unless that was cancelled.
func (c *conn) send(r *call, msg any) {
	line := c.encode(msg)
	c.writing.Lock()
	defer c.writing.Unlock()
	if r == nil || !r.cancelled.Load() {
		c.write(line)
	}
}

// answer writes the last message for a request. From when it can be read the
// client may use the id again.
func (c *conn) answer(r *call, msg any) {
	line := c.encode(msg)
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	delete(c.calls, key(r.ID))
	c.mu.Unlock()
	if !r.cancelled.Load() {
		c.write(line)
	}
}

// encode returns a message as a line.
func (c *conn) encode(msg any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(msg); err != nil {
		c.srv.Log.Error("encode message", "conn", c.id, "err", err)
	}
	return b.Bytes()
}

// write writes a line. A client that takes too long to read it is disconnected,
// so that what waits to be written does not pile up.
func (c *conn) write(line []byte) {
	timeout := c.srv.WriteTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(timeout)) // fails when closed, as Write then does
	if _, err := c.nc.Write(line); err != nil {
		c.srv.Log.Debug("write to client", "conn", c.id, "err", err)
		c.cancel()
	}
}
