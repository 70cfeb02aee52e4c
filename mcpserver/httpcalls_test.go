package mcpserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

const cancelOne = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`

// callers are a client of each kind, which calls block and can go away.
func callers(f *httpFixture) map[string]func(t *testing.T) (cancel func()) {
	over := func(p *peer, body string) func(*testing.T) func() {
		return func(*testing.T) func() { _, cancel := p.background(body); return cancel }
	}
	return map[string]func(*testing.T) func(){
		"legacy": over(f.peer().initialize("2025-11-25"), callLine("1", "block", "{}")),
		"modern": over(f.peer().modern("tools/call", "block"), modernCall("1", "block", "{}")),
		"sse": func(t *testing.T) func() {
			heard, say := f.peer().openSSE()
			say(callLine("1", "block", "{}")).want(http.StatusAccepted, "")
			return func() { heard.Body.Close() }
		},
	}
}

func TestClientThatGoesAwayCancelsItsCalls(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	for name, call := range callers(f) {
		t.Run(name, func(t *testing.T) {
			leave := call(t)
			<-f.started
			leave()
			<-f.ended
		})
	}
}

// Ids are each client's own: what one says of its 1 is nothing to another's.
func TestNobodyCancelsAnothersCall(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	one, two := f.peer().initialize("2025-11-25"), f.peer().initialize("2025-11-25")
	modern := f.peer().modern("tools/call", "block")
	first, _ := one.background(callLine("1", "block", "{}"))
	second, _ := modern.background(modernCall("1", "block", "{}"))
	<-f.started
	<-f.started
	two.post(cancelOne).want(http.StatusAccepted, "")
	f.peer().modern("notifications/cancelled", "").post(cancelOne).want(http.StatusAccepted, "")
	f.peer().post(cancelOne).want(http.StatusBadRequest, "begin with initialize")
	_, say := f.peer().openSSE()
	say(cancelOne).want(http.StatusAccepted, "")
	close(f.release)
	(<-first).want(http.StatusOK, "released")
	(<-second).want(http.StatusOK, "released")
	if len(f.ended) > 0 {
		t.Errorf("%d calls were cancelled", len(f.ended))
	}
}

func TestCancelledCallIsNotAnsweredOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	p := f.peer().initialize("2025-11-25")
	got, _ := p.background(callLine("1", "block", "{}"))
	<-f.started
	p.post(cancelOne).want(http.StatusAccepted, "")
	<-f.ended
	if body := (<-got).want(http.StatusOK, ""); body != "" {
		t.Errorf("answer %q", body)
	}
}

// However many commands run, a destroy gets through.
func TestDestroyIsNeverStuck(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Limits: mcpserver.Limits{Calls: 150}})
	for i := range 150 {
		f.peer().modern("tools/call", "block").background(modernCall(fmt.Sprint(i), "block", "{}"))
	}
	for range 150 {
		<-f.started
	}
	f.peer().modern("tools/call", "destroy").post(modernCall("1", "destroy", "{}")).want(http.StatusOK, "destroyed")
	close(f.release)
}

func TestPanicIsSurvivedAndHiddenOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: panics{}})
	body := f.as("a").post(ping).want(http.StatusInternalServerError, "internal error (ref ")
	if strings.Contains(body, "secret") {
		t.Errorf("body %s", body)
	}
	if log := f.log.String(); !strings.Contains(log, "secret detail") || !strings.Contains(log, "httpcalls_test.go") {
		t.Errorf("log has no panic with its stack:\n%s", log)
	}
}

type panics struct{}

func (panics) Authenticate(context.Context, string) (sessions.Principal, error) {
	panic("secret detail")
}

// A client that reads nothing is disconnected, and others don't notice.
func TestSlowReaderIsDisconnectedOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{}, func(s *mcpserver.Server) { s.WriteTimeout = 50 * time.Millisecond })
	p := f.peer()
	_, path := p.do(http.MethodGet, "/sse", nil).event() // the only one that is heard
	p.do(http.MethodPost, path, strings.NewReader(callLine("1", "block", "{}"))).want(http.StatusAccepted, "")
	<-f.started
	p.do(http.MethodPost, path, strings.NewReader(callLine("2", "big", "{}"))).want(http.StatusAccepted, "")
	for i := range 11 { // 48 MB, which is more than the sockets take
		_, err := p.try(t.Context(), http.MethodPost, path, strings.NewReader(callLine(fmt.Sprint(i+3), "big", "{}")))
		if err != nil {
			break // it is disconnected already
		}
	}
	<-f.ended // the disconnection cancels what it had running
	f.peer().initialize("2025-11-25").post(ping).want(http.StatusOK, "{}")
}

func TestLimitsOfAPrincipal(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a", "b"}, Limits: mcpserver.Limits{Calls: 2}})
	call := modernCall("1", "block", "{}")
	first, _ := f.as("a").modern("tools/call", "block").background(call)
	f.as("a").modern("tools/call", "block").background(call)
	<-f.started
	<-f.started
	res := f.as("a").modern("tools/call", "block").post(call)
	wantErrorText(t, res.want(http.StatusTooManyRequests, "2 calls are running already"), -32000)
	if got := res.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After: %s", got)
	}
	heard, say := f.as("a").openSSE()
	say(callLine("1", "block", "{}")).want(http.StatusAccepted, "")
	heard.wantEvent("2 calls are running already")
	f.as("a").modern("tools/call", "destroy").post(modernCall("1", "destroy", "{}")).want(http.StatusOK, "destroyed")
	b, _ := f.as("b").modern("tools/call", "block").background(call) // who has room of its own
	<-f.started
	close(f.release)
	(<-b).want(http.StatusOK, "released")
	(<-first).want(http.StatusOK, "released")
	f.as("a").modern("tools/call", "block").post(call).want(http.StatusOK, "released")
}

// What does not say how large it is counts as it is once it has been read.
func TestChunkedCallsTakeWhatTheyHave(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	for range 5 { // that may be 32 MiB each, of 96
		answered := make(chan *response, 1)
		go func() {
			res, err := f.peer().modern("tools/call", "block").try(t.Context(), http.MethodPost, "/mcp", io.MultiReader(strings.NewReader(modernCall("1", "block", "{}"))))
			if err == nil {
				answered <- res
			}
		}()
		select {
		case <-f.started:
		case res := <-answered:
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	close(f.release)
}

// Nor does who listens to many streams take all connections.
func TestStreamsOfAPrincipalAreLimited(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a", "b"}, MaxConns: 20})
	a := f.as("a").initialize("2025-11-25")
	one, _ := f.as("a").openSSE()
	for range 9 {
		a.do(http.MethodGet, "/mcp", nil)
	}
	for _, path := range []string{"/mcp", "/sse"} {
		res := a.do(http.MethodGet, path, nil)
		if res.StatusCode == http.StatusOK {
			t.Fatalf("GET %s: one stream more is open", path) // it does not end
		}
		res.want(http.StatusTooManyRequests, "10 streams are open already")
		if got := res.Header.Get("Retry-After"); got != "60" {
			t.Errorf("Retry-After %q", got)
		}
	}
	a.post(ping).want(http.StatusOK, "{}")
	f.as("b").openSSE()
	one.Body.Close()
	for res := a.do(http.MethodGet, "/mcp", nil); res.StatusCode != http.StatusOK; res = a.do(http.MethodGet, "/mcp", nil) {
		res.want(http.StatusTooManyRequests, "")
		time.Sleep(10 * time.Millisecond) // the server must notice
	}
}

func TestRateOfAPrincipal(t *testing.T) {
	const rate = 0.001 // a request in 1000 s, and one at once
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a", "b"}, Limits: mcpserver.Limits{Rate: rate}})
	call := modernCall("1", "whoami", "{}")
	f.as("a").modern("tools/call", "whoami").post(call).want(http.StatusOK, "token:a")
	res := f.as("a").modern("tools/call", "whoami").post(call)
	wantErrorText(t, res.want(http.StatusTooManyRequests, "more than 0.001 requests a second; try again in "), -32000)
	if got := res.Header.Get("Retry-After"); len(got) != 3 && got != "1000" {
		t.Errorf("Retry-After: %s", got)
	}
	c := f.dialHTTP(t) // a large body is not waited for to say so
	c.say("POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
	c.want(http.StatusTooManyRequests, "more than 0.001 requests a second; try again in ")
	f.as("b").modern("tools/call", "whoami").post(call).want(http.StatusOK, "token:b")
}

// When the server ends, calls get the time to end, and new ones are refused.
func TestEndDrainsCalls(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{}, func(s *mcpserver.Server) { s.Grace = soon })
	p := f.peer().modern("tools/call", "block")
	got, _ := p.background(modernCall("1", "block", "{}"))
	heard, say := f.peer().openSSE()
	say(callLine("2", "block", "{}")).want(http.StatusAccepted, "")
	listening := f.peer().initialize("2025-11-25").do(http.MethodGet, "/mcp", nil)
	<-f.started
	<-f.started
	f.stop()
	if _, err := io.ReadAll(listening.in); err != nil { // it ends at once: nothing is to come
		t.Errorf("listening: %v", err)
	}
	late := f.peer().post(ping)
	late.want(http.StatusServiceUnavailable, "sandboxes go on")
	if late.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	close(f.release)
	(<-got).want(http.StatusOK, "released")
	heard.wantEvent("released")
	err := <-f.served
	f.served <- err // for the cleanup
	if len(f.ended) > 0 || err != nil {
		t.Errorf("%d calls cancelled, error %v", len(f.ended), err)
	}
}

// Calls that take too long are cancelled at the end.
func TestEndCancelsCalls(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	for _, call := range callers(f) {
		call(t)
		<-f.started
	}
	f.stop()
	for range 3 {
		<-f.ended
	}
}

// Sessions that nobody uses any more end, and nothing is left of them.
func TestSessionsEndByThemselves(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{SessionTTL: time.Second})
	stays := f.peer().initialize("2025-11-25")
	stays.do(http.MethodGet, "/mcp", nil) // is being used
	before := runtime.NumGoroutine()
	p := f.peer()
	var opened []string
	for range 1000 {
		p.header.Del("Mcp-Session-Id")
		p.initialize("2025-11-25")
		opened = append(opened, p.header.Get("Mcp-Session-Id"))
	}
	if n := runtime.NumGoroutine(); n > before+100 {
		t.Errorf("%d goroutines before and %d after", before, n)
	}
	for _, id := range []string{opened[0], opened[999]} {
		p.set("Mcp-Session-Id", id)
		for p.post(ping).StatusCode != http.StatusNotFound {
			time.Sleep(1500 * time.Millisecond) // asking keeps it alive
		}
	}
	stays.post(ping).want(http.StatusOK, "{}")
}

// lineHTTP is a connection on which a test says HTTP itself.
type lineHTTP struct {
	t *testing.T
	net.Conn
}

func (f *httpFixture) dialHTTP(t *testing.T) lineHTTP {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return lineHTTP{t, c}
}

func (c lineHTTP) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c lineHTTP) want(status int, text string) {
	c.t.Helper()
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	(&response{c.t, res, bufio.NewReader(res.Body)}).want(status, text)
}

// A body that is too long is refused when its length is told, and not read. Of
// one that does not tell it, no more is read than there may be.
func TestBodyIsLimited(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{MaxBody: 1 << 20})
	const post = " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	_, message := f.peer().do(http.MethodGet, "/sse", nil).event()
	for _, path := range []string{"/mcp", message} {
		c := f.dialHTTP(t)
		c.say("POST " + path + post + "Content-Length: 1073741824\r\n\r\n")
		c.want(http.StatusRequestEntityTooLarge, "more than 1 MiB")
		c = f.dialHTTP(t)
		c.say("POST " + path + post + "Transfer-Encoding: chunked\r\n\r\n40000000\r\n" + strings.Repeat(" ", 1<<20+1))
		c.want(http.StatusRequestEntityTooLarge, "more than 1 MiB")
	}
}

// A connection on which nothing comes does not keep others out.
func TestHalfOpenConnection(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	f.dialHTTP(t).say("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	f.peer().initialize("2025-11-25").post(ping).want(http.StatusOK, "{}")
}

// Nor is one kept whose request was answered without its body, which does not
// come: else whoever can connect, without a token, could take them all.
func TestBodyThatNeverComes(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}}, func(s *mcpserver.Server) { s.WriteTimeout = 2 * time.Second })
	for _, path := range []string{"/mcp", "/files/x", "/nothing"} {
		for _, body := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
			c := f.dialHTTP(t)
			c.say("POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + body + "\r\n\r\n")
			if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 40") {
				t.Errorf("POST %s with %s: %v after %q", path, body, err, said)
			}
		}
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{MaxConns: 1})
	one := f.peer().initialize("2025-11-25")
	two := f.peer()
	two.set("Mcp-Session-Id", one.header.Get("Mcp-Session-Id"))
	res := two.post(ping)
	res.want(http.StatusServiceUnavailable, "1 connections are open already, the most there may be at a time; try again in 5 s")
	if got := res.Header.Get("Retry-After"); got != "5" || !res.Close {
		t.Errorf("Retry-After %q, and the connection is closed: %v", got, res.Close)
	}
	one.post(ping).want(http.StatusOK, "{}")
	one.client.CloseIdleConnections()
	for res = two.post(ping); res.StatusCode != http.StatusOK; res = two.post(ping) {
		res.want(http.StatusServiceUnavailable, "")
		time.Sleep(10 * time.Millisecond) // the server must notice
	}
}

// A stream may be silent for longer than a client may take to read.
func TestStreamOutlivesTheWriteTimeout(t *testing.T) {
	const timeout = 20 * time.Millisecond
	f := startHTTP(t, mcpserver.HTTP{}, func(s *mcpserver.Server) { s.WriteTimeout = timeout })
	heard, say := f.peer().openSSE()
	time.Sleep(2 * timeout) // it is time that must have passed
	say(ping).want(http.StatusAccepted, "")
	heard.wantEvent(`"id":"ping"`)
}
