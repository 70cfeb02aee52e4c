package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// lingerTime bounds how long the host may take to read our last word.
const lingerTime = 5 * time.Second

// hostSession is a session of package wire: what one host has under way here.
type hostSession struct {
	*Server
	*wire.Session
	generation *generation
	ctx        context.Context // ends with the session
	cancel     context.CancelFunc
	unused     *time.Timer // ends a session without a connection for calls
}

// finish ends the session and all its connections.
func (h *hostSession) finish() {
	h.generation.mu.Lock()
	delete(h.generation.sessions, h.ID)
	h.generation.mu.Unlock()
	h.cancel()
}

// serveJoined serves a connection that claims to belong to a session, and unties
// it from the generation, since a session has an end of its own.
func (s *Server) serveJoined(g *generation, nc net.Conn, known func(), untie func() bool) {
	joined, err := wire.Accept(nc, func(id wire.ID) *wire.Session {
		if h := g.session(id); h != nil {
			return h.Session
		}
		return nil
	})
	known()
	if err != nil {
		s.Log.Debug("join session", "err", err)
		return
	}
	h := g.session(joined.ID)
	if h == nil { // ended meanwhile
		return
	}
	var open wire.Open
	if wire.ReadFrame(nc, &open) != nil {
		return
	}
	_ = nc.SetDeadline(time.Time{}) // fails on a closed connection only
	if open.For != wire.Calls {
		defer context.AfterFunc(h.ctx, func() { _ = nc.Close() })()
		h.serveStream(nc, open)
		return
	}
	for in := bufio.NewReader(nc); h != nil; {
		stop := context.AfterFunc(h.ctx, func() { _ = nc.Close() })
		untie()
		next := h.calls(nc, in)
		stop()
		if next != nil {
			h.generation.end() // and with it all but this connection
		}
		h = next
	}
}

// serveStream serves a connection that streams, up to its last part.
func (h *hostSession) serveStream(nc net.Conn, open wire.Open) {
	in, out := wire.NewStreamReader(nc), wire.NewStreamWriter(nc)
	defer in.Release()
	var end wire.EndStream
	switch open.For {
	case wire.Run:
		end = stream(open, func(r wire.RunRequest) wire.EndStream { return h.run(nc, in, out, r) })
	case wire.Read:
		end = stream(open, func(r wire.ReadRequest) wire.EndStream { return h.read(out, r) })
	case wire.Write:
		end = stream(open, func(r wire.WriteRequest) wire.EndStream { return h.write(in, r) })
	}
	if out.SendJSON(wire.End, end) != nil {
		return
	}
	// The host closes when it has read that; before, our end could take it away.
	_ = nc.SetDeadline(time.Now().Add(lingerTime)) // fails on a closed connection only
	_, _ = io.Copy(io.Discard, nc)
}

// stream decodes the request of open for do.
func stream[T any](open wire.Open, do func(T) wire.EndStream) wire.EndStream {
	var req T
	if err := json.Unmarshal(open.Args, &req); err != nil {
		return wire.EndStream{Err: wire.ToError(err)}
	}
	return do(req)
}
