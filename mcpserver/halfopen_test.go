package mcpserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// A client that is gone, or acts as if it were, is given up.
func TestHalfOpenConnectionIsGivenUp(t *testing.T) {
	const post = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	for name, tt := range map[string]struct {
		sent  string
		after time.Duration
	}{
		"says-nothing":            {"", 10 * time.Second},
		"part-of-the-header":      {post, 10 * time.Second},
		"part-of-the-body":        {post + "Content-Length: 100\r\n\r\n{", time.Minute},
		"part-of-what-is-refused": {"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 30 * time.Second},
		"reads-no-answer":         {post + "Content-Length: 2\r\n\r\n{}", 30 * time.Second},
		"reads-nothing-of-a-sse":  {"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, ln := startPipes(t, mcpserver.HTTP{})
				start := time.Now()
				client, ours := net.Pipe()
				defer client.Close()
				c := &closable{Conn: ours, closed: make(chan struct{})}
				ln <- c
				if tt.sent != "" { // else a pipe waits for a reader
					if _, err := io.WriteString(client, tt.sent); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case <-c.closed:
				case <-time.After(time.Hour):
				}
				if took := time.Since(start); took != tt.after {
					t.Errorf("given up after %v, want %v", took, tt.after)
				}
			})
		})
	}
}

// A client may wait for its answer longer than for its request to be taken.
func TestLongCallIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ln := startPipes(t, mcpserver.HTTP{})
		got, _ := ln.peer(f).modern("tools/call", "block").background(modernCall("1", "block", "{}"))
		<-f.started
		go func() {
			time.Sleep(100 * time.Second)
			close(f.release)
		}()
		(<-got).want(http.StatusOK, "released")
	})
}

// What comes at once takes its turn, and what is refused too, on any transport.
func TestRequestsAreSpacedOut(t *testing.T) {
	const rate, atOnce, perSecond = 10, 20, 100
	for name, client := range map[string]func(*httpFixture, pipes) (ask func(call string)){
		"streamable": func(f *httpFixture, ln pipes) func(string) {
			p := ln.peer(f).modern("tools/call", "whoami")
			return func(call string) { _, _ = io.Copy(io.Discard, p.post(call).Body) }
		},
		"sse": func(f *httpFixture, ln pipes) func(string) {
			heard, say := ln.peer(f).openSSE()
			go func() { _, _ = io.Copy(io.Discard, heard.in) }()
			return func(call string) { say(call).want(http.StatusAccepted, "") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, ln := startPipes(t, mcpserver.HTTP{Limits: mcpserver.Limits{Rate: rate}})
				ask, start := client(f, ln), time.Now()
				for i := range atOnce - 1 { // to listen is one, too
					ask(modernCall(fmt.Sprint(i), "whoami", "{}"))
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("what may come at once took %v", took)
				}
				for i := range 3 * perSecond { // most of which is refused
					ask(modernCall(fmt.Sprint(atOnce+i), "whoami", "{}"))
				}
				if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
					t.Errorf("the rest took %v", took)
				}
			})
		})
	}
}

// startPipes serves the fixture on connections of which a test has both ends,
// so that it can have a clock of its own.
func startPipes(t *testing.T, h mcpserver.HTTP) (*httpFixture, pipes) {
	f, ln := newFixture(t), make(pipes)
	f.serve(t, func(ctx context.Context) error { return f.ServeHTTPOn(ctx, ln, h) })
	return &httpFixture{f, t, "http://localhost"}, ln
}

// peer returns a client of f's that connects to p.
func (p pipes) peer(f *httpFixture) *peer {
	c := f.peer()
	c.client.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, ours := net.Pipe()
		p <- ours
		return client, nil
	}}
	return c
}

// pipes is a listener for the connections that are put into it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error { close(p); return nil }

func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// closable is a connection of which a test sees that it was closed.
type closable struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
