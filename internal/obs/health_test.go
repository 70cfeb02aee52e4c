package obs_test

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/obs"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// check compares an answer.
func (f *fixture) check(path string, status int, body string) {
	f.t.Helper()
	if gotStatus, got := f.get(path); gotStatus != status || got != body+"\n" {
		f.t.Errorf("%s: got %d %q, want %d %q", path, gotStatus, got, status, body+"\n")
	}
}

func TestReady(t *testing.T) {
	f := start(t, nil)
	f.check("/readyz", http.StatusOK, "ok")
	f.db.Close()
	f.check("/readyz", http.StatusServiceUnavailable, "the store can't be read; the log of the daemon says why")
	f.check("/healthz", http.StatusOK, "ok")
}

// Why an installation can't be opened may quote the configuration.
func TestBrokenInstallationIsNotReady(t *testing.T) {
	f := start(t, func(context.Context) (sessions.Store, error) {
		return nil, errors.New("config.yaml:1: want a text\nnot \"hunter2\"")
	})
	f.check("/readyz", http.StatusServiceUnavailable, "the installation can't be opened; the log of the daemon says why")
	f.check("/healthz", http.StatusOK, "ok")
	f.has("agentlab_ready 0")
}

// What hangs keeps nobody waiting, whatever it does with its context.
func TestHangingStoreIsNotReady(t *testing.T) {
	release := make(chan bool)
	f := start(t, func(context.Context) (sessions.Store, error) { <-release; return nil, context.Canceled })
	defer close(release)
	f.check("/readyz", http.StatusServiceUnavailable, "the store did not answer within 2s")
	f.check("/healthz", http.StatusOK, "ok")
	f.has("agentlab_ready 0")
}

// A web page whose name resolves to our address is not answered.
func TestOnlyTheLoopbackIsAskedFor(t *testing.T) {
	f := start(t, nil)
	for host, want := range map[string]int{
		"localhost": http.StatusOK, "localhost:1": http.StatusOK, "127.0.0.1": http.StatusOK, "[::1]:2": http.StatusOK, "[::1]": http.StatusOK,
		"evil.example": http.StatusForbidden, "evil.example:9464": http.StatusForbidden, "localhost.evil.example": http.StatusForbidden, "10.0.0.1": http.StatusForbidden,
	} {
		for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			if got, _ := f.do(req); got != want {
				t.Errorf("%s of %s: got %d, want %d", path, host, got, want)
			}
		}
	}
}

// Who holds connections takes no more than those of the daemon.
func TestFewConnectionsAtATime(t *testing.T) {
	f := start(t, nil)
	conns := make([]net.Conn, 64)
	for i := range conns {
		conns[i] = f.dial()
		if err := health(conns[i]); err != nil {
			t.Fatal(err)
		}
	}
	more := f.dial()
	if err := more.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := health(more); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("one more was answered: %v", err)
	}
	conns[0].Close()
	if err := more.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(more).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Errorf("when there is room: %q %v", line, err)
	}
}

func (f *fixture) dial() net.Conn {
	f.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

// health asks for it over a connection and reads the beginning of the answer.
func health(c net.Conn) error {
	if _, err := c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// A listener that fails is no end that was asked for.
func TestFailedListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	watch := obs.New(obs.Daemon{Clients: &mcpserver.Server{}, Log: slog.New(slog.DiscardHandler)})
	if err := watch.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want %v", err, net.ErrClosed)
	}
}
