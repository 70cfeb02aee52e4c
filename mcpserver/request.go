package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// call is a request being served. It is also the session that mcp-go wants of
// a client, so that what is sent for one request is sent before its answer and
// where its answer goes, and to nobody else.
type call struct {
	message
	conn      *conn
	out       *outlet
	size      int
	cancelled atomic.Bool
	notes     chan mcp.JSONRPCNotification
	refusal   atomic.Pointer[mcp.JSONRPCErrorDetails]

	ctx    context.Context
	cancel context.CancelFunc

	filter atomic.Pointer[mcp.SubscriptionFilter] // of subscriptions/listen
}

func newCall(c *conn, out *outlet, msg message, size int) *call {
	r := &call{message: msg, conn: c, out: out, size: size, notes: make(chan mcp.JSONRPCNotification, 8)}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	return r
}

// SessionID is part of server.ClientSession: the connection and the client's id.
func (r *call) SessionID() string { return r.conn.name() + " " + string(r.ID) }

// NotificationChannel is part of server.ClientSession.
func (r *call) NotificationChannel() chan<- mcp.JSONRPCNotification { return r.notes }

// Initialize is part of server.ClientSession.
func (r *call) Initialize() {}

// Initialized is part of server.ClientSession. What is sent belongs to a
// request of the client's own, which is enough to know that it listens.
func (r *call) Initialized() bool { return true }

// SetLogLevel is part of server.SessionWithLogging.
func (r *call) SetLogLevel(level mcp.LoggingLevel) { r.conn.level.Store(&level) }

// GetLogLevel is part of server.SessionWithLogging.
func (r *call) GetLogLevel() mcp.LoggingLevel {
	if level := r.conn.level.Load(); level != nil {
		return *level
	}
	return mcp.LoggingLevelError
}

// SetSubscriptionFilter is part of server.SessionWithSubscriptionFilter.
func (r *call) SetSubscriptionFilter(f mcp.SubscriptionFilter) { r.filter.Store(&f) }

// SubscriptionFilter is part of server.SessionWithSubscriptionFilter. Only what
// a client has asked for is broadcast to it.
func (r *call) SubscriptionFilter() (mcp.SubscriptionFilter, bool) {
	if f := r.filter.Load(); f != nil {
		return *f, true
	}
	return mcp.SubscriptionFilter{}, true
}

// run serves an admitted request and returns when its answer is written. ctx
// says who asks; it ends the call, and so does the end of the connection.
func (c *conn) run(ctx context.Context, r *call, line []byte) {
	defer c.release(r)
	defer r.cancel()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.ctx, func() { cancel(context.Cause(r.ctx)) })() // which may be before ctx has heard of it
	c.show(ctx)
	over := make(chan struct{})
	var sent sync.WaitGroup
	sent.Go(func() { r.forward(ctx, over) })
	answer := c.srv.dispatch(ctx, r, line)
	close(over)
	sent.Wait()
	r.answer(toResponse(answer, r.ID))
}

// forward sends what comes for the request until it is over, and then the rest:
// its handler has put all into the channel before it returned.
func (r *call) forward(ctx context.Context, over <-chan struct{}) {
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for {
		select {
		case n := <-r.notes:
			r.send(r.tagged(n))
		case <-quiet.C:
			if r.listens() && !r.conn.known(ctx) {
				r.deny(ErrUnauthenticated)
			}
			r.out.ping()
		case <-over:
			for {
				select {
				case n := <-r.notes:
					r.send(r.tagged(n))
				default:
					return
				}
			}
		}
	}
}

// keepAlive is how often something is sent at least to a client that waits for
// more, so that neither it nor a proxy between gives up, and so that we notice
// when it is gone.
const keepAlive = 15 * time.Second

// listens says that the request is a stream: it lasts until the client ends it.
func (r *call) listens() bool { return r.Method == string(mcp.MethodSubscriptionsListen) }

// tagged is a notification that says to which subscription it belongs, if any.
func (r *call) tagged(n mcp.JSONRPCNotification) mcp.JSONRPCNotification {
	if !r.listens() {
		return n
	}
	meta := map[string]any{}
	maps.Copy(meta, n.Params.Meta) // shared with other subscribers
	meta[mcp.MetaKeySubscriptionID] = r.ID
	n.Params.Meta = meta
	return n
}

// send sends a message for the request, unless that was cancelled.
func (r *call) send(msg any) { r.out.send(r, r.conn.encode(msg), nil) }

// answer sends the last message for the request. From when it can be read the
// client may use the id again.
func (r *call) answer(res response) { r.out.send(r, r.conn.encode(res), &res) }

// forget makes the id of the request free.
func (r *call) forget() {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	delete(r.conn.calls, key(r.ID))
}

// dispatch has mcp-go serve a request, and survives its panic.
func (s *Server) dispatch(ctx context.Context, r *call, line []byte) (answer mcp.JSONRPCMessage) {
	ctx = s.mcp.WithContext(ctx, r)
	defer func() {
		if v := recover(); v != nil {
			text := fmt.Sprintf("internal error (ref %s)", s.panicked(ctx, v))
			answer = mcp.JSONRPCError{Error: mcp.NewJSONRPCErrorDetails(mcp.INTERNAL_ERROR, text, nil)}
		}
		if problem := r.refusal.Load(); problem != nil {
			s.limited(problem)
			answer = mcp.JSONRPCError{Error: *problem}
		}
	}()
	ctx, leave := s.enter(ctx)
	defer leave()
	if refusal := s.guard(ctx, r.message); refusal != nil {
		return refusal
	}
	if r.listens() {
		if err := s.mcp.RegisterSession(ctx, r); err == nil { // what is broadcast reaches it
			defer s.mcp.UnregisterSession(ctx, r.SessionID())
		}
	}
	answer = s.mcp.HandleMessage(ctx, line)
	if r.listens() && errors.Is(context.Cause(ctx), ErrUnauthenticated) {
		r.deny(ErrUnauthenticated)
	}
	return answer
}

// deny ends the request, whose answer is that it may not go on.
func (r *call) deny(err error) {
	r.refusal.Store(&mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: err.Error()})
	r.cancel()
}

// refuse makes the answer to the request that ctx is of a JSON-RPC error,
// whatever its handler returns: mcp-go leaves handlers no choice of the code.
func refuse(ctx context.Context, problem *mcp.JSONRPCErrorDetails) {
	if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
		r.refusal.Store(problem)
	}
}

// requestID names the request that ctx is of in the log.
func requestID(ctx context.Context) string {
	if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
		id := r.SessionID()
		return id[:min(len(id), 60)]
	}
	return ""
}

// ask makes a request of the client while it waits for its own, and returns
// the result. It goes where the answer to the client's request will go.
func (r *call) ask(ctx context.Context, method mcp.MCPMethod, params any) (json.RawMessage, error) {
	c := r.conn
	reply := make(chan message, 1)
	c.mu.Lock()
	c.asked++
	id := c.asked
	k := key(fmt.Append(nil, id))
	c.asks[k] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.asks, k)
	}()
	r.send(mcp.JSONRPCRequest{
		JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(id),
		Request: mcp.Request{Method: string(method)}, Params: params,
	})
	select {
	case msg := <-reply:
		if msg.Error != nil {
			return nil, fmt.Errorf("%s: the client answers: %s", method, msg.Error.Message)
		}
		return msg.Result, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// answered takes the client's answer to a request of ours.
func (c *conn) answered(msg message) {
	c.mu.Lock()
	reply := c.asks[key(msg.ID)]
	delete(c.asks, key(msg.ID))
	c.mu.Unlock()
	if reply != nil {
		reply <- msg
	}
}

// RequestElicitation is part of server.SessionWithElicitation.
func (r *call) RequestElicitation(ctx context.Context, req mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	text, err := r.ask(ctx, mcp.MethodElicitationCreate, req.Params)
	if err != nil {
		return nil, err
	}
	var res mcp.ElicitationResult
	if err := json.Unmarshal(text, &res); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", mcp.MethodElicitationCreate, err)
	}
	return &res, nil
}

// RequestSampling is part of server.SessionWithSampling.
func (r *call) RequestSampling(ctx context.Context, req mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	text, err := r.ask(ctx, mcp.MethodSamplingCreateMessage, req.CreateMessageParams)
	if err != nil {
		return nil, err
	}
	var res mcp.CreateMessageResult
	if err := json.Unmarshal(text, &res); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", mcp.MethodSamplingCreateMessage, err)
	}
	if res.Content, err = mcp.ParseSamplingContent(res.Content); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", mcp.MethodSamplingCreateMessage, err)
	}
	return &res, nil
}
