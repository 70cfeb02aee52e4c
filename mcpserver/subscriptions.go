package mcpserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

const (
	watchEvery = 10 * time.Second // a resource is looked at that somebody has subscribed to
	maxWatched = 20               // resources that one connection, or one listening request, has subscribed to
)

// looking is the kind of work that a subscription makes.
const looking = "subscription"

// watched is a resource that a connection has subscribed to.
type watched struct{ end func() }

// offerSubscriptions tells those who subscribe to a resource when it has
// changed. Nothing in a sandbox tells us, so we look: a change that is undone
// in between is missed, which is what the protocol allows. A subscription to
// what does not exist is accepted, as it may come to exist.
func (s *Server) offerSubscriptions(hooks *server.Hooks) {
	hooks.AddAfterSubscribe(func(ctx context.Context, _ any, req *mcp.SubscribeRequest, _ *mcp.EmptyResult) {
		if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
			if problem := r.conn.subscribe(ctx, req.Params.URI); problem != nil {
				refuse(ctx, problem)
			}
		}
	})
	hooks.AddAfterUnsubscribe(func(ctx context.Context, _ any, req *mcp.UnsubscribeRequest, _ *mcp.EmptyResult) {
		if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
			r.conn.unsubscribe(req.Params.URI)
		}
	})
	hooks.AddBeforeSubscriptionsListen(func(ctx context.Context, _ any, req *mcp.SubscriptionsListenRequest) {
		if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
			n := r.watchAll(ctx, req.Params.Notifications.ResourceSubscriptions)
			req.Params.Notifications.ResourceSubscriptions = req.Params.Notifications.ResourceSubscriptions[:n] // the acknowledgement says so
		}
	})
}

// watchAll begins to watch as many of the resources as there may be until the
// request ends, which it does when the caller may not look any more.
func (r *call) watchAll(ctx context.Context, uris []string) (n int) {
	for _, uri := range uris[:min(len(uris), maxWatched)] {
		if problem := r.conn.follow(ctx, uri, r.notes, func(err error) {
			if err != nil {
				r.deny(err)
			}
		}); problem != nil {
			break
		}
		n++
	}
	return n
}

// subscribe begins to watch a resource for the principal of ctx, until the
// client unsubscribes or is gone, or the principal may not look any more. It
// says why if there are too many already.
func (c *conn) subscribe(ctx context.Context, uri string) *mcp.JSONRPCErrorDetails {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched[uri] != nil {
		return nil
	}
	if len(c.watched) >= maxWatched {
		return c.share.much("subscriptions", watchEvery, "this connection has subscribed to %d resources, the most there may be; unsubscribe from one", maxWatched)
	}
	who, _ := sessions.PrincipalFrom(ctx)
	who.Expires = time.Time{} // each look goes by the token that was shown last
	lasting, leave := c.srv.enter(sessions.WithPrincipal(c.ctx, who))
	w := &watched{leave}
	if problem := c.follow(lasting, uri, c.notes, func(error) { c.ended(uri, w) }); problem != nil {
		leave()
		return problem
	}
	if c.watched == nil {
		c.watched = map[string]*watched{}
	}
	c.watched[uri] = w
	return nil
}

func (c *conn) unsubscribe(uri string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.watched[uri]; w != nil {
		w.end()
		delete(c.watched, uri)
	}
}

// ended forgets a subscription, unless there is another one by now.
func (c *conn) ended(uri string, w *watched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.end()
	if c.watched[uri] == w {
		delete(c.watched, uri)
	}
}

// follow begins to watch a resource until ctx ends, and then calls over, or says
// why it can't.
func (c *conn) follow(ctx context.Context, uri string, notes chan<- mcp.JSONRPCNotification, over func(error)) *mcp.JSONRPCErrorDetails {
	if problem := c.share.look(); problem != nil {
		return problem
	}
	go func() {
		defer c.share.unlook()
		over(c.watch(ctx, uri, notes))
	}()
	return nil
}

// watch sends a notification each time that the resource has changed, until ctx
// ends or it is of a sandbox that has. The error is that the caller may not look
// any more.
func (c *conn) watch(ctx context.Context, uri string, notes chan<- mcp.JSONRPCNotification) error {
	var last string
	for {
		now, over, err := c.look(ctx, uri)
		if ctx.Err() != nil {
			err = nil // nobody is left to be told
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
		switch {
		case now == "" || now == last:
		case last == "": // the first look
			last = now
		default:
			select {
			case notes <- mcp.JSONRPCNotification{JSONRPC: mcp.JSONRPC_VERSION, Notification: mcp.Notification{
				Method: mcp.MethodNotificationResourceUpdated,
				Params: mcp.NotificationParams{AdditionalFields: map[string]any{"uri": uri}},
			}}:
				last = now
			default: // the client reads too slowly; it is told the next time
			}
		}
		if over && now == last || !sleep(ctx, watchEvery) {
			return nil
		}
	}
}

// look returns what differs when the resource does, empty if that can't be found
// out now, and whether it is of a sandbox that has ended. Who looks is asked
// each time, and may do it as one who reads the resource may. The error is that
// it may not.
func (c *conn) look(ctx context.Context, uri string) (version string, over bool, err error) {
	ctx, err = c.asNow(ctx)
	switch {
	case errors.Is(err, ErrUnauthenticated):
		return "", false, ErrUnauthenticated
	case err != nil:
		return "", false, nil //nolint:nilerr // it passes
	}
	res := c.srv.read(ctx, looking, uri, nil)
	switch {
	case res.Outcome == tools.OutcomeRefused:
		return "", false, errors.New(res.Content[0].Text)
	case res.IsError: // the text may tell how long ago something was
		return res.Outcome, res.Outcome == sessions.NotFound.String() && c.srv.Resources.Over(ctx, uri), nil
	}
	sum := sha256.New()
	sum.Write([]byte(res.Content[0].Text))
	sum.Write(res.Content[0].Data)
	return string(sum.Sum(nil)), false, nil
}
