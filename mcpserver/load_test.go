package mcpserver_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// loaded is a server under load, and how things were before.
type loaded struct {
	*httpFixture
	web        mcpserver.Web
	goroutines int
	heap       uint64
}

// startLoaded starts one that logs nothing, so that what its memory has grown
// by is what it has forgotten to let go.
func startLoaded(t *testing.T, h mcpserver.HTTP) *loaded {
	t.Helper()
	f := newFixture(t, func(s *mcpserver.Server) { s.Log = slog.New(slog.DiscardHandler) })
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &loaded{httpFixture: &httpFixture{f, t, "http://" + ln.Addr().String()}, web: mcpserver.NewWeb(f.Server, h)}
	f.serve(t, func(ctx context.Context) error { return l.web.ServeOn(ctx, ln) })
	p := l.newPeer("Authorization", "Bearer other") // a first one, so that what is made once is there
	if err := p.open(); err != nil {
		t.Fatal(err)
	}
	p.drop()
	l.web.EndSessions()
	l.goroutines, l.heap = settled(runtime.NumGoroutine), heap()
	return l
}

// settled returns a number when it has not changed for a while.
func settled(count func() int) int {
	for n := count(); ; {
		time.Sleep(50 * time.Millisecond)
		last := n
		if n = count(); n >= last {
			return n
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what had finalizers, too
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wantNothingLeft waits until all is as it was before the load, but for some
// principals whose rate is to be remembered.
func (l *loaded) wantNothingLeft(remembered int) {
	l.t.Helper()
	const more = 4 << 20 // bytes, of which nothing is known; a session that is left has some 2 kB
	var left string
	for end := time.Now().Add(2 * soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		l.web.Sweep()
		sessions, principals := l.web.Left()
		n := runtime.NumGoroutine()
		left = fmt.Sprintf("%d sessions, %d principals, %d goroutines (%d before)", sessions, principals, n, l.goroutines)
		if sessions > 0 || principals > remembered || n > l.goroutines {
			continue
		}
		now := heap()
		left += fmt.Sprintf(", %d kB (%d before)", now>>10, l.heap>>10)
		if now <= l.heap+more {
			return
		}
	}
	var stacks strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	l.t.Fatalf("left: %s\n%s", left, stacks.String())
}

// light is a client that keeps nothing of what it was answered.
type light struct {
	url    string
	header http.Header
	http   http.Client
}

func (l *loaded) newPeer(header ...string) *light {
	c := &light{url: l.url, header: http.Header{"Content-Type": {"application/json"}}}
	for i := 0; i < len(header); i += 2 {
		c.header.Set(header[i], header[i+1])
	}
	c.http.Transport = &http.Transport{MaxIdleConnsPerHost: 100}
	return c
}

// modern returns a client of 2026-07-28 that calls a tool.
func (l *loaded) modern(tool string, header ...string) *light {
	return l.newPeer(append(header, "Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", tool)...)
}

// drop ends the connections of the client.
func (c *light) drop() { c.http.CloseIdleConnections() }

// post returns the status of the response when all of it is read.
func (c *light) post(ctx context.Context, body, want string) (status int, h http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/mcp", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = c.header
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(text), want) {
		err = fmt.Errorf("response %d %s; want %s", res.StatusCode, text, want)
	}
	return res.StatusCode, res.Header, err
}

// open opens a session.
func (c *light) open() error {
	_, h, err := c.post(context.Background(), `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, "2025-11-25")
	if err != nil {
		return err
	}
	c.header.Set("Mcp-Session-Id", h.Get("Mcp-Session-Id"))
	_, _, err = c.post(context.Background(), `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "")
	return err
}

// Most clients drop a session without a word.
func TestThousandSessionsAreForgotten(t *testing.T) {
	l := startLoaded(t, mcpserver.HTTP{SessionTTL: time.Millisecond})
	var group errgroup.Group
	for range 5 {
		group.Go(func() error {
			c := l.newPeer()
			defer c.drop()
			for range 200 {
				if err := c.open(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	l.wantNothingLeft(0)
}

// The stream of a session of 2024 is a connection of its own.
func TestThousandStreamsAreForgotten(t *testing.T) {
	l := startLoaded(t, mcpserver.HTTP{})
	var group errgroup.Group
	group.SetLimit(50)
	for range 1000 {
		group.Go(func() error { return l.openAndDropSSE(t.Context()) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	l.wantNothingLeft(0)
}

func (l *loaded) openAndDropSSE(ctx context.Context) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, c, 200) // the header, of an event at least
	return err
}

func TestManyCallsInFlight(t *testing.T) {
	l := startLoaded(t, mcpserver.HTTP{})
	legacy, modern := l.newPeer(), l.modern("block")
	if err := legacy.open(); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for i := range 100 {
		id := fmt.Sprint(i + 10)
		group.Go(func() error {
			_, _, err := legacy.post(t.Context(), callLine(id, "block", "{}"), "released")
			return err
		})
		group.Go(func() error {
			_, _, err := modern.post(t.Context(), modernCall(id, "block", "{}"), "released")
			return err
		})
	}
	for range 200 {
		<-l.started
	}
	urgent := l.modern("destroy")
	if _, _, err := urgent.post(t.Context(), modernCall("1", "destroy", "{}"), "destroyed"); err != nil {
		t.Error(err)
	}
	close(l.release)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	l.web.EndSessions()
	legacy.drop()
	modern.drop()
	urgent.drop()
	l.wantNothingLeft(0)
}

// A gigabyte that is announced is not read, and of one that is not no more than
// may come is.
func TestHugeBodyIsCutOff(t *testing.T) {
	l := startLoaded(t, mcpserver.HTTP{MaxBody: 1 << 20})
	for name, length := range map[string]string{
		"announced": "Content-Length: 1073741824\r\n\r\n",
		"chunked":   "Transfer-Encoding: chunked\r\n\r\n40000000\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(l.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+length); err != nil {
				t.Fatal(err)
			}
			// What the kernel holds besides is at most a few MiB.
			if n, err := io.CopyN(c, endless{}, 1<<30); err == nil {
				t.Errorf("all of it was taken: %d bytes", n)
			} else if n > 64<<20 {
				t.Errorf("%d MiB were taken", n>>20)
			}
		})
	}
	l.wantNothingLeft(0)
}

// Who asks too often is refused, and others don't notice.
func TestFloodOfOnePrincipal(t *testing.T) {
	const requests, atATime = 2000, 20
	l := startLoaded(t, mcpserver.HTTP{Auth: tokens{"flood", "other"}, Limits: mcpserver.Limits{Rate: 10}})
	var served, refused atomic.Int64
	flood, group := l.modern("whoami", "Authorization", "Bearer flood"), errgroup.Group{}
	for range atATime {
		group.Go(func() error {
			for range requests / atATime {
				status, h, err := flood.post(t.Context(), modernCall("1", "whoami", "{}"), "")
				switch {
				case status == http.StatusOK:
					served.Add(1)
				case status == http.StatusTooManyRequests && h.Get("Retry-After") != "":
					refused.Add(1)
				default:
					return fmt.Errorf("status %d, %v, error %w", status, h, err)
				}
			}
			return nil
		})
	}
	other := l.modern("whoami", "Authorization", "Bearer other")
	for range 90 { // it may make 100 at once
		if status, _, err := other.post(t.Context(), modernCall("1", "whoami", "{}"), "token:other"); err != nil {
			t.Fatalf("another's call: status %d, %v", status, err)
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if served.Load() < 100 || refused.Load() == 0 {
		t.Errorf("%d served and %d refused", served.Load(), refused.Load())
	}
	flood.drop()
	other.drop()
	l.wantNothingLeft(2)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}
