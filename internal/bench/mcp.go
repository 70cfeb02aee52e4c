package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// mcp compares a tool call that does nothing, with a token through all of our
// stack, with the same call of mcp-go's bare handler.
func (b *bench) mcp(ctx context.Context) (_ []figure, err error) {
	plenty := mcpserver.Limits{Rate: 1e6, Calls: 1000} // counted as always, and never reached
	ours, stopOurs, err := serveOurs(ctx, plenty)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopOurs()) }()
	bare, stopBare, err := serveBare(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopBare()) }()
	var figures []figure
	for _, era := range []struct {
		name   string
		client func(ctx context.Context, url, token string) (*client, error)
	}{
		{"legacy", legacyClient}, {"modern", modernClient},
	} {
		us, err := era.client(ctx, ours, "measured")
		if err != nil {
			return nil, err
		}
		floor, err := era.client(ctx, bare, "")
		if err != nil {
			return nil, err
		}
		more, err := compareCalls(ctx, era.name, us, floor)
		if err != nil {
			return nil, err
		}
		figures = append(figures, more...)
	}
	return figures, nil
}

// compareCalls compares calls one after the other, and those of many callers.
func compareCalls(ctx context.Context, era string, us, floor *client) ([]figure, error) {
	const single, rounds, each = 2000, 50, 20 * callers
	var ours, bare, oursMany, bareMany sample
	for range single {
		if err := timed(&ours, func() error { return us.call(ctx) }); err != nil {
			return nil, err
		}
		if err := timed(&bare, func() error { return floor.call(ctx) }); err != nil {
			return nil, err
		}
	}
	for range rounds {
		if err := timed(&oursMany, func() error { return us.calls(ctx, each) }); err != nil {
			return nil, err
		}
		if err := timed(&bareMany, func() error { return floor.calls(ctx, each) }); err != nil {
			return nil, err
		}
	}
	return []figure{
		slower("http_call_"+era, "call over HTTP, "+era+" / mcp-go's bare handler", ours, bare, 1.3),
		faster("http_rate_"+era, fmt.Sprintf("calls a second of %d callers, %s / mcp-go's bare handler", callers, era), oursMany, bareMany, 0.7),
	}, nil
}

// timed adds how long do takes.
func timed(into *sample, do func() error) error {
	start := time.Now()
	err := do()
	*into = append(*into, time.Since(start))
	return err
}

// crowd compares the slowest calls of one principal while another asks as fast
// as it can, which is far more often than it may, with those while it does not.
func (b *bench) crowd(ctx context.Context) (_ []figure, err error) {
	const rounds, each, pace, flood = 18, 120, 10 * time.Millisecond, 1000 // 10,000 requests of the other, at the pace it has
	url, stop, err := serveOurs(ctx, mcpserver.Limits{Rate: 100, Calls: 256})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	one, err := modernClient(ctx, url, "measured")
	if err != nil {
		return nil, err
	}
	other, err := modernClient(ctx, url, "other")
	if err != nil {
		return nil, err
	}
	other.refused = true
	next := time.NewTicker(pace) // as often as it may
	defer next.Stop()
	some := func(into *sample) error {
		for range each {
			<-next.C
			if err := timed(into, func() error { return one.call(ctx) }); err != nil {
				return err
			}
		}
		return nil
	}
	var quiet, crowded sample
	for range rounds {
		if err := some(&quiet); err != nil {
			return nil, err
		}
		group, ctx := errgroup.WithContext(ctx)
		ctx, enough := context.WithCancel(ctx)
		group.Go(func() error {
			for ctx.Err() == nil {
				if err := other.calls(ctx, flood); err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
		err := some(&crowded)
		enough()
		if err := errors.Join(err, group.Wait()); err != nil {
			return nil, err
		}
	}
	what := fmt.Sprintf("p99 of a call while another principal makes %d requests / alone", other.ids.Load())
	return []figure{atWorst("http_crowd_p99", what, crowded, quiet, 3)}, nil
}

// bridge compares a call over agentlab mcp with the same in this process. It
// lacks an argument, so that all it does is to be refused.
func (b *bench) bridge(ctx context.Context) ([]figure, error) {
	const n = 1000
	var here tools.Tool
	manager := func(context.Context) (*sessions.Manager, error) { return &sessions.Manager{}, nil }
	for _, t := range tools.All(manager, nil, slog.New(slog.DiscardHandler)) {
		if t.Name == "destroy" {
			here = t
		}
	}
	var ours, floor sample
	for range n {
		var far string
		err := timed(&ours, func() error {
			_, err := b.client.Call(ctx, here.Name, nil, nil)
			far = fmt.Sprint(err)
			return nil
		})
		if err != nil {
			return nil, err
		}
		var near tools.Result
		_ = timed(&floor, func() error { near = here.Call(ctx, json.RawMessage("{}")); return nil })
		if far != near.Content[0].Text {
			return nil, fmt.Errorf("over the bridge: %s; want %s", far, near.Content[0].Text)
		}
	}
	more := size("bridge_call", "call over the stdio bridge, more than in process", "ms", ms(ours.median())-ms(floor.median()), 1, n)
	more.ours, more.theirs = ours.String(), floor.String()
	return []figure{more}, nil
}

// holder is an Authenticator of tokens that it knows by their hash, as a
// database of them would.
type holder map[[sha256.Size]byte]sessions.Principal

func (h holder) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	who, ok := h[sha256.Sum256([]byte(token))]
	if !ok {
		return who, mcpserver.ErrUnauthenticated
	}
	return who, nil
}

// nothing is what the tool answers.
const nothing = "nothing done"

// serveOurs serves the tool through our stack.
func serveOurs(ctx context.Context, limits mcpserver.Limits) (url string, stop func() error, err error) {
	auth := holder{}
	for _, name := range []string{"measured", "other"} {
		auth[sha256.Sum256([]byte(name))] = sessions.Principal{Name: "token:" + name, Scopes: []sessions.Scope{sessions.ScopeRead, sessions.ScopeWrite}}
	}
	s := &mcpserver.Server{
		Version: "bench", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), //nolint:sloglint // to write the line of each call is measured too
		Tools: []tools.Tool{{Name: "nothing", Scope: sessions.ScopeRead, Call: func(context.Context, json.RawMessage) tools.Result {
			return tools.Result{Content: []tools.Content{{Text: nothing}}, Outcome: "ok"}
		}}},
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.ServeHTTPOn(ctx, ln, mcpserver.HTTP{Auth: auth, Limits: limits}) }()
	return "http://" + ln.Addr().String() + "/mcp", func() error { cancel(); return <-served }, nil
}

// serveBare serves the same tool through mcp-go alone.
func serveBare(ctx context.Context) (url string, stop func() error, err error) {
	s := server.NewMCPServer("bare", "bench", server.WithToolCapabilities(false))
	s.AddTool(mcp.NewTool("nothing"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(nothing), nil
	})
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", server.NewStreamableHTTPServer(s))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	return "http://" + ln.Addr().String() + "/mcp", func() error {
		if err := srv.Close(); err != nil {
			return err
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}

// client makes one call over and over. It is as little as a client can be: what
// it takes is in the floor too.
type client struct {
	http.Client
	url     string
	header  http.Header
	meta    string // of the calls
	ids     atomic.Int64
	refused bool // may be told that it asks too often
}

func newClient(url, token string) *client {
	c := &client{url: url, header: http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
	}}
	c.Transport = &http.Transport{MaxIdleConnsPerHost: callers}
	if token != "" {
		c.header.Set("Authorization", "Bearer "+token)
	}
	return c
}

// legacyClient returns one with a session.
func legacyClient(ctx context.Context, url, token string) (*client, error) {
	c := newClient(url, token)
	const version = "2025-11-25"
	res, err := c.do(ctx, []byte(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"`+version+`","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`))
	if err != nil {
		return nil, err
	}
	c.header.Set(mcp.HeaderSessionID, res.header.Get(mcp.HeaderSessionID))
	c.header.Set(mcp.HeaderProtocolVersion, version)
	c.meta = "{}"
	return c, nil
}

// modernClient returns one of 2026-07-28.
func modernClient(_ context.Context, url, token string) (*client, error) {
	c := newClient(url, token)
	const version = "2026-07-28"
	c.header.Set(mcp.HeaderProtocolVersion, version)
	c.header.Set("Mcp-Method", "tools/call")
	c.header.Set("Mcp-Name", "nothing")
	c.meta = `{"` + mcp.MetaKeyProtocolVersion + `":"` + version + `","` + mcp.MetaKeyClientCapabilities + `":{}}`
	return c, nil
}

// call calls the tool.
func (c *client) call(ctx context.Context) error {
	res, err := c.do(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"nothing","arguments":{},"_meta":%s}}`, c.ids.Add(1), c.meta))
	switch {
	case err != nil:
		return err
	case c.refused && res.code == http.StatusTooManyRequests:
		return nil
	case res.code != http.StatusOK || !strings.Contains(string(res.body), nothing):
		return fmt.Errorf("call the tool: %d %s: %s", res.code, http.StatusText(res.code), res.body)
	}
	return nil
}

// response is one that was read to its end.
type response struct {
	code   int
	header http.Header
	body   []byte
}

// do sends a message and reads all of the response.
func (c *client) do(ctx context.Context, msg []byte) (response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(msg))
	if err != nil {
		return response{}, err
	}
	req.Header = c.header
	res, err := c.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, body}, err
}

// calls makes n calls, by callers at a time.
func (c *client) calls(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	for range callers {
		group.Go(func() error {
			for range n / callers {
				if err := c.call(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
