package mcpserver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
)

const (
	watchEvery = 10 * time.Second // a resource is looked at that somebody has subscribed to
	maxWatched = 20               // resources that one connection, or one listening request, has subscribed to
)

// offerSubscriptions tells those who subscribe to a resource when it has
// changed. Nothing in a sandbox tells us, so we look: a change that is undone
// in between is missed, which is what the protocol allows. A subscription to
// what does not exist is accepted, as it may come to exist.
func (s *Server) offerSubscriptions(hooks *server.Hooks) {
	hooks.AddAfterSubscribe(func(ctx context.Context, _ any, req *mcp.SubscribeRequest, _ *mcp.EmptyResult) {
		if r, ok := server.ClientSessionFromContext(ctx).(*call); ok && !r.conn.watch(ctx, req.Params.URI) {
			refuse(ctx, tooMany())
		}
	})
	hooks.AddAfterUnsubscribe(func(ctx context.Context, _ any, req *mcp.UnsubscribeRequest, _ *mcp.EmptyResult) {
		if r, ok := server.ClientSessionFromContext(ctx).(*call); ok {
			r.conn.unwatch(req.Params.URI)
		}
	})
	hooks.AddBeforeSubscriptionsListen(func(ctx context.Context, _ any, req *mcp.SubscriptionsListenRequest) {
		r, ok := server.ClientSessionFromContext(ctx).(*call)
		uris := req.Params.Notifications.ResourceSubscriptions
		if len(uris) > maxWatched {
			req.Params.Notifications.ResourceSubscriptions = uris[:maxWatched] // the acknowledgement says so
		}
		for _, uri := range req.Params.Notifications.ResourceSubscriptions {
			if ok && s.Resources.Find(uri) != nil {
				go s.watch(ctx, uri, r.notes)
			}
		}
	})
}

func tooMany() *mcp.JSONRPCErrorDetails {
	problem := mcp.NewJSONRPCErrorDetails(busy, fmt.Sprintf("this connection has subscribed to %d resources, the most there may be; unsubscribe from one", maxWatched), nil)
	return &problem
}

// watch begins to watch a resource for the principal of ctx, until the client
// unsubscribes or is gone. It returns false if there are too many already.
func (c *conn) watch(ctx context.Context, uri string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.watched[uri]; ok {
		return true
	}
	if len(c.watched) >= maxWatched {
		return false
	}
	if c.watched == nil {
		c.watched = map[string]context.CancelFunc{}
	}
	who, _ := sessions.PrincipalFrom(ctx)
	lasting, cancel := context.WithCancel(sessions.WithPrincipal(c.ctx, who))
	c.watched[uri] = cancel
	if c.srv.Resources.Find(uri) != nil {
		go c.srv.watch(lasting, uri, c.notes)
	}
	return true
}

func (c *conn) unwatch(uri string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.watched[uri]; cancel != nil {
		cancel()
		delete(c.watched, uri)
	}
}

// watch sends a notification each time that the resource has changed.
func (s *Server) watch(ctx context.Context, uri string, notes chan<- mcp.JSONRPCNotification) {
	last := s.version(ctx, uri)
	for sleep(ctx, watchEvery) {
		now := s.version(ctx, uri)
		if now == last {
			continue
		}
		select {
		case notes <- mcp.JSONRPCNotification{JSONRPC: mcp.JSONRPC_VERSION, Notification: mcp.Notification{
			Method: mcp.MethodNotificationResourceUpdated,
			Params: mcp.NotificationParams{AdditionalFields: map[string]any{"uri": uri}},
		}}:
			last = now
		default: // the client reads too slowly; it is told the next time
		}
	}
}

// version returns what differs when the resource does.
func (s *Server) version(ctx context.Context, uri string) string {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	res := s.Resources.Read(ctx, uri)
	if res.IsError {
		return res.Outcome // the text may tell how long ago something was
	}
	sum := sha256.New()
	sum.Write([]byte(res.Content[0].Text))
	sum.Write(res.Content[0].Data)
	return string(sum.Sum(nil))
}
