// Package remote joins an MCP client that only speaks stdio to a server
// elsewhere, over streamable HTTP. It is the part of AgentLab that runs where
// there is no Linux: nothing here knows of a daemon or a sandbox.
package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Bridge joins one client to a server. It passes messages on as they are and
// reads of them only what the transport asks for: which of them is answered,
// what a client of 2026-07-28 says in headers, the session that one of before
// opens.
type Bridge struct {
	server Server
	url    string
	client *http.Client

	running   sync.WaitGroup // requests
	listening sync.WaitGroup

	writing sync.Mutex
	out     io.Writer

	mu      sync.Mutex
	calls   map[string]*bridgeCall // by id
	session bridgeSession
	listens bool  // somebody hears what belongs to no request
	reached bool  // the server has answered once
	failed  error // why the last request did not reach it
}

// bridgeSession is what a client until 2025-11-25 has with the server.
type bridgeSession struct {
	id      string
	version string
	opening []byte // the message that opened it, to open another
}

// bridgeCall is a request that is not answered yet.
type bridgeCall struct {
	modern    bool
	cancel    context.CancelFunc
	cancelled bool
}

// wire is what the bridge reads of a message.
type wire struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name      json.RawMessage `json:"name"`
		URI       json.RawMessage `json:"uri"`
		RequestID json.RawMessage `json:"requestId"`
		Meta      struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
	Result struct {
		Version string `json:"protocolVersion"`
	} `json:"result"`
	Error json.RawMessage `json:"error"`
}

// modern says that the message is of the era without sessions.
func (w wire) modern() bool { return w.Params.Meta.Version >= "2026-07-28" }

// patience is how long a server may take to come back, and to be connected to.
const patience = 10 * time.Second

// Run serves the client, which writes a message a line, until in ends and all
// that it asked is answered. It is called once. It fails if the server was
// never reached.
func (b *Bridge) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	b.out = out
	b.calls = map[string]*bridgeCall{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listenCtx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			b.take(ctx, listenCtx, line)
		}
		if err != nil {
			break // also a broken pipe is an end
		}
	}
	b.running.Wait()
	hangUp()
	b.listening.Wait()
	b.endSession(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.reached && b.failed != nil {
		return b.failed
	}
	return nil
}

// take passes on one message of the client. A request runs by itself, except
// for what opens a session: what follows belongs to that.
func (b *Bridge) take(ctx, listenCtx context.Context, line []byte) {
	var msg wire
	err := json.Unmarshal(line, &msg)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok { // another error is for the server to word
		b.write(errorAnswer(nil, -32700, "message is not valid JSON: "+syntax.Error()))
		return
	}
	switch {
	case line[0] == '[': // its answer would be to no id
		b.write(errorAnswer(nil, -32600, "batches are not supported; send one message a line"))
	case msg.Method == "notifications/cancelled" && b.cancelCall(msg):
	case msg.Method == "initialize":
		b.serve(ctx, msg, line)
	case msg.Method == "notifications/initialized":
		_, _ = b.post(ctx, msg, line, nil)
		b.listening.Go(func() { b.listen(listenCtx) })
	default:
		b.running.Go(func() { b.serve(ctx, msg, line) })
	}
}

// cancelCall lets nothing more be written for a request. In the era in which
// closing its response is how to cancel it that is all, and done; else the
// server must be told.
func (b *Bridge) cancelCall(msg wire) (done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.calls[string(msg.Params.RequestID)]
	if c == nil {
		return false
	}
	c.cancelled = true
	if c.modern {
		c.cancel()
	}
	return c.modern
}

// serve makes a request of the server's and writes all that comes of it. What
// goes wrong is an answer, too: nobody may read what else we say.
func (b *Bridge) serve(ctx context.Context, msg wire, line []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &bridgeCall{modern: msg.modern(), cancel: cancel}
	if msg.ID != nil && msg.Method != "" {
		b.mu.Lock()
		b.calls[string(msg.ID)] = c
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.calls, string(msg.ID))
		}()
	}
	answered, err := b.post(ctx, msg, line, func(text []byte) {
		b.mu.Lock()
		cancelled := c.cancelled
		b.mu.Unlock()
		if !cancelled {
			b.write(text)
		}
	})
	b.mu.Lock()
	silent := c.cancelled || answered || msg.ID == nil || msg.Method == ""
	b.mu.Unlock()
	if err != nil && !silent {
		b.write(errorAnswer(msg.ID, -32000, err.Error()))
	}
}

// write writes a message as a line.
func (b *Bridge) write(text []byte) {
	var line bytes.Buffer
	if json.Compact(&line, text) != nil {
		return // it is none
	}
	line.WriteByte('\n')
	b.writing.Lock()
	defer b.writing.Unlock()
	_, _ = b.out.Write(line.Bytes()) // a client that has gone closes our input, too
}

// errorAnswer is an answer that is an error.
func errorAnswer(id json.RawMessage, code int, text string) []byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		quoted = []byte(`"error"`)
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%s}}`, id, code, quoted)
}

// listen writes what belongs to no request, until 2025-11-25.
func (b *Bridge) listen(ctx context.Context) {
	b.mu.Lock()
	already := b.listens || b.session.id == ""
	b.listens = true
	b.mu.Unlock()
	for wait := time.Second; !already && ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		res, err := b.do(ctx, http.MethodGet, wire{}, nil)
		if err == nil && res.StatusCode == http.StatusOK {
			wait = time.Second
			_ = readEvents(res.Body, func(text []byte) { b.write(text) })
		}
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusMethodNotAllowed { // it has nothing to say
				return
			}
		}
		sleep(ctx, wait)
	}
}

// endSession tells the server that the session is over, also when that is so
// because the client was killed.
func (b *Bridge) endSession(ctx context.Context) {
	b.mu.Lock()
	id := b.session.id
	b.mu.Unlock()
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if res, err := b.do(ctx, http.MethodDelete, wire{}, nil); err == nil {
		_ = res.Body.Close()
	}
}
