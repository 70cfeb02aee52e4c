package pve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

func TestAnswersThatAreNotProxmox(t *testing.T) {
	const page = "<html><body>502 Bad Gateway</body></html>"
	tests := []struct {
		name   string
		answer exchange
		kind   pve.Kind
		says   string
	}{
		{"html-page", exchange{Status: 200, Reason: "OK", Type: "text/html", Body: page}, pve.BadAnswer, "URL"},
		{"empty", exchange{Status: 200, Reason: "OK"}, pve.BadAnswer, "URL"},
		{"json-null", exchange{Status: 200, Reason: "OK", Body: "null"}, pve.BadAnswer, "URL"},
		{"no-data", exchange{Status: 200, Reason: "OK", Body: `{"data":null}`}, pve.BadAnswer, "no data"},
		{"other-data", exchange{Status: 200, Reason: "OK", Body: `{"data":[1]}`}, pve.BadAnswer, "understood"},
		{"cut-short", exchange{Status: 200, Reason: "OK", Body: `{"data":{"version":`}, pve.BadAnswer, "URL"},
		{"not-found", exchange{Status: 404, Reason: "Not Found", Type: "text/html", Body: page}, pve.BadAnswer, "404 Not Found"},
		{"redirect", exchange{Status: 302, Reason: "Found"}, pve.BadAnswer, "302 Found"},
		{"proxy", exchange{Status: 502, Reason: "Bad Gateway", Type: "text/html", Body: page}, pve.Interrupted, "Bad Gateway"},
		{"errors-null", exchange{Status: 400, Reason: "Parameter verification failed.", Body: `{"errors":null,"data":null}`}, pve.Parameter, "Parameter verification failed."},
		{"no-reason", exchange{Status: 500}, pve.Failed, "Internal Server Error"},
		{"no-reason-596", exchange{Status: 596}, pve.Interrupted, "no reason given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { tt.answer.write(w) })
			_, err := c.Version(t.Context())
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v (%q), want %v about %q", err, kindOf(err), tt.kind, tt.says)
			}
			if strings.Contains(err.Error(), "<html>") {
				t.Errorf("a web page is no message: %v", err)
			}
		})
	}
}

// Only an answer that names the ID says that it is free.
func TestIDFreeIsSaid(t *testing.T) {
	for body, free := range map[string]bool{
		`{"data":"555"}`: true, `{"data":555}`: true,
		`{"data":null}`: false, `{}`: false, `{"data":""}`: false, `{"data":"556"}`: false, `{"data":[]}`: false, `{"status":"ok"}`: false,
	} {
		c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
			(&exchange{Status: 200, Reason: "OK", Body: body}).write(w)
		})
		if err := c.IDFree(t.Context(), 555); free != (err == nil) || !free && !errors.Is(err, pve.BadAnswer) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func kindOf(err error) pve.Kind {
	if e, ok := errors.AsType[*pve.Error](err); ok {
		return e.Kind
	}
	return ""
}

func TestUnauthorizedHasNoBody(t *testing.T) {
	for _, title := range []string{"10 no auth at all", "10 token: wrong secret"} {
		x := recorded(t, title)
		c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { x.write(w) })
		if _, err := c.Version(t.Context()); !errors.Is(err, pve.Unauthorized) || !strings.Contains(err.Error(), x.Reason) {
			t.Errorf("%s: %v", title, err)
		}
	}
}

// A POST whose connection breaks may have taken effect, and so may a one-shot
// GET: neither net/http nor the client may send it again.
func TestBrokenConnectionIsNotHiddenByARepeat(t *testing.T) {
	tests := []struct {
		name string
		call func(*pve.Client, context.Context) error
		path string
	}{
		{"clone", func(c *pve.Client, ctx context.Context) error {
			_, err := c.Clone(ctx, vm(9000), pve.CloneSpec{NewID: 100})
			return err
		}, "/clone"},
		{"start", func(c *pve.Client, ctx context.Context) error { _, err := c.Start(ctx, vm(1)); return err }, "/start"},
		{"delete", func(c *pve.Client, ctx context.Context) error { _, err := c.Delete(ctx, vm(1)); return err }, "/qemu/1"},
		{"exec-status", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExecStatus(ctx, vm(1), 1)
			return err
		}, "/exec-status"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var broken atomic.Int32
			var first, second string // connections
			c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, tt.path) {
					first = r.RemoteAddr
					_, _ = io.WriteString(w, `{"data":{"version":"8.4.1"}}`)
					return
				}
				second = r.RemoteAddr
				broken.Add(1)
				conn, _, _ := http.NewResponseController(w).Hijack()
				conn.Close()
			})
			if _, err := c.Version(t.Context()); err != nil {
				t.Fatal(err)
			}
			err := tt.call(c, t.Context())
			if !errors.Is(err, pve.ConnectionLost) {
				t.Errorf("error %v, want %v", err, pve.ConnectionLost)
			}
			if first != second {
				t.Errorf("the kept connection was not used: the test tests nothing")
			}
			if n := broken.Load(); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

// counting fails every call so and counts them.
type counting struct {
	err   error
	calls int
}

func (c *counting) Do(context.Context, pve.Request) (json.RawMessage, error) {
	c.calls++
	return nil, c.err
}

func TestWhatIsRepeated(t *testing.T) {
	read := func(c *pve.Client, ctx context.Context) error { _, err := c.Status(ctx, vm(1)); return err }
	write := func(c *pve.Client, ctx context.Context) error { _, err := c.Start(ctx, vm(1)); return err }
	once := func(c *pve.Client, ctx context.Context) error { _, err := c.AgentExecStatus(ctx, vm(1), 1); return err }
	upload := func(c *pve.Client, ctx context.Context) error {
		_, err := c.Upload(ctx, "pve", "local", "iso", pve.File{Name: "a.iso"})
		return err
	}
	grant := func(c *pve.Client, ctx context.Context) error { return c.Grant(ctx, "/", "r", "u@pve", "") }
	tests := []struct {
		name  string
		call  func(*pve.Client, context.Context) error
		kind  pve.Kind
		calls int
	}{
		{"read-unreachable", read, pve.Unreachable, 3},
		{"read-lost", read, pve.ConnectionLost, 3},
		{"read-596", read, pve.Interrupted, 3},
		{"read-refused", read, pve.Permission, 1},
		{"read-missing", read, pve.NotFound, 1},
		{"read-untrusted", read, pve.Untrusted, 1},
		{"read-unauthorized", read, pve.Unauthorized, 1},
		{"upload-unreachable", upload, pve.Unreachable, 3},
		{"upload-lost", upload, pve.ConnectionLost, 1},
		{"write-unreachable", write, pve.Unreachable, 3},
		{"write-lost", write, pve.ConnectionLost, 1},
		{"write-596", write, pve.Interrupted, 1},
		{"write-locked", write, pve.LockTimeout, 1},
		{"exec-status-unreachable", once, pve.Unreachable, 3},
		{"exec-status-lost", once, pve.ConnectionLost, 1},
		{"exec-status-596", once, pve.Interrupted, 1},
		{"grant-lost", grant, pve.ConnectionLost, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := &counting{err: &pve.Error{Kind: tt.kind, Message: "m"}}
				if err := tt.call(&pve.Client{Transport: transport}, t.Context()); !errors.Is(err, tt.kind) {
					t.Errorf("error %v", err)
				}
				if transport.calls != tt.calls {
					t.Errorf("%d calls, want %d", transport.calls, tt.calls)
				}
			})
		})
	}
}

func TestRepeatEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	transport := &counting{err: &pve.Error{Kind: pve.Unreachable, Message: "m"}}
	if _, err := (&pve.Client{Transport: transport}).Version(ctx); err == nil || transport.calls != 1 {
		t.Errorf("%d calls, error %v", transport.calls, err)
	}
}

// unanswered waits until the client has gone. It must not return: the server
// would then answer, which a slow client still reads.
func unanswered(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

func TestContextEndsACall(t *testing.T) {
	arrived := make(chan struct{}, 1)
	c, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		unanswered(r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := c.Version(ctx); !errors.Is(err, context.Canceled) || kindOf(err) != "" {
		t.Errorf("error %v", err)
	}
}

func TestLimitsOfACall(t *testing.T) {
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			unanswered(r)
		}
		_, _ = io.WriteString(w, `{"data":"`+strings.Repeat("9", 1000)+`"}`)
	})
	c.Transport.(*pve.HTTPS).SetLimits(50*time.Millisecond, 1<<20)
	if _, err := c.Start(t.Context(), vm(1)); !errors.Is(err, pve.Interrupted) || errors.Is(err, pve.ConnectionLost) {
		t.Errorf("a call without an answer: %v", err)
	}
	c.Transport.(*pve.HTTPS).SetLimits(time.Minute, 1000)
	if _, err := c.NextID(t.Context()); !errors.Is(err, pve.TooLarge) {
		t.Errorf("a long answer: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	c := client(t, srv, pve.Auth{Token: token})
	srv.Close()
	if _, err := c.Start(t.Context(), vm(1)); !errors.Is(err, pve.Unreachable) {
		t.Errorf("error %v", err)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	t.Cleanup(elsewhere.Close)
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	if _, err := c.Version(t.Context()); !errors.Is(err, pve.BadAnswer) || followed.Load() {
		t.Errorf("error %v, followed %v", err, followed.Load())
	}
}

// What is refused here never reaches the server.
func TestRefusedBeforeSending(t *testing.T) {
	tests := []struct {
		name string
		call func(*pve.Client, context.Context) error
		kind pve.Kind
	}{
		{"form-too-long", func(c *pve.Client, ctx context.Context) error {
			return c.SetConfig(ctx, vm(1), pve.Change{Set: map[string]string{"description": strings.Repeat("x", 512<<10)}})
		}, pve.TooLarge},
		{"upload-too-long", func(c *pve.Client, ctx context.Context) error {
			_, err := c.Upload(ctx, "pve", "local", "iso", pve.File{Name: "a.iso", Data: make([]byte, pve.MaxUpload+1)})
			return err
		}, pve.TooLarge},
		{"node-with-slash", func(c *pve.Client, ctx context.Context) error {
			_, err := c.Delete(ctx, pve.VM{Node: "pve/qemu/1/../..", ID: 1})
			return err
		}, pve.Parameter},
		{"node-empty", func(c *pve.Client, ctx context.Context) error { _, err := c.Start(ctx, pve.VM{ID: 1}); return err }, pve.Parameter},
		{"node-dots", func(c *pve.Client, ctx context.Context) error {
			_, err := c.Start(ctx, pve.VM{Node: "..", ID: 1})
			return err
		}, pve.Parameter},
		{"node-newline", func(c *pve.Client, ctx context.Context) error {
			_, err := c.Start(ctx, pve.VM{Node: "a\nb", ID: 1})
			return err
		}, pve.Parameter},
		{"volume-climbs", func(c *pve.Client, ctx context.Context) error {
			_, err := c.DeleteVolume(ctx, "pve", "local", "../../other/content/x")
			return err
		}, pve.Parameter},
		{"no-task", func(c *pve.Client, ctx context.Context) error { _, err := c.Wait(ctx, "UPID:"); return err }, pve.Parameter},
		{"exec-not-ascii", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExec(ctx, vm(1), []string{"/bin/echo", "ä"}, nil)
			return err
		}, pve.NotASCII},
		{"exec-not-utf8", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExec(ctx, vm(1), []string{"/bin/echo", "\xff"}, nil)
			return err
		}, pve.NotASCII},
		{"exec-nul", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExec(ctx, vm(1), []string{"a\x00b"}, nil)
			return err
		}, pve.NotASCII},
		{"exec-nothing", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExec(ctx, vm(1), nil, nil)
			return err
		}, pve.Parameter},
		{"exec-input-too-long", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentExec(ctx, vm(1), []string{"cat"}, make([]byte, pve.MaxInput+1))
			return err
		}, pve.TooLarge},
		{"read-not-ascii", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentReadFile(ctx, vm(1), "/tmp/ä")
			return err
		}, pve.NotASCII},
		{"read-at-not-ascii", func(c *pve.Client, ctx context.Context) error {
			_, err := c.AgentReadFileAt(ctx, vm(1), "/tmp/ä", 0, 1)
			return err
		}, pve.NotASCII},
		{"write-not-ascii", func(c *pve.Client, ctx context.Context) error { return c.AgentWriteFile(ctx, vm(1), "/tmp/ä", nil) }, pve.NotASCII},
		{"write-too-long", func(c *pve.Client, ctx context.Context) error {
			return c.AgentWriteFile(ctx, vm(1), "/tmp/a", make([]byte, pve.MaxWrite+1))
		}, pve.TooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var sent atomic.Int32
			c, _ := server(t, func(http.ResponseWriter, *http.Request) { sent.Add(1) })
			if err := tt.call(c, t.Context()); !errors.Is(err, tt.kind) || sent.Load() != 0 {
				t.Errorf("error %v, want %v; %d requests sent", err, tt.kind, sent.Load())
			}
		})
	}
}

func TestTrust(t *testing.T) {
	var calls atomic.Int32
	x := recorded(t, "10 version")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		x.write(w)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // refused handshakes
	srv.StartTLS()
	t.Cleanup(srv.Close)
	sum := sha256.Sum256(srv.Certificate().Raw)
	plain := hex.EncodeToString(sum[:])
	colons := strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
	other := "00" + plain[2:]

	tests := []struct {
		name  string
		trust pve.Trust
		says  string // of an error; "" is success
	}{
		{"pinned", pve.Trust{Fingerprint: colons}, ""},
		{"pinned-plain", pve.Trust{Fingerprint: " " + plain + "\n"}, ""},
		{"insecure", pve.Trust{Insecure: true}, ""},
		{"other-pinned", pve.Trust{Fingerprint: other}, colons},
		{"system", pve.Trust{}, colons},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			calls.Store(0)
			h, err := pve.NewHTTPS(srv.URL, pve.Auth{Token: token}, tt.trust)
			if err != nil {
				t.Fatal(err)
			}
			c := &pve.Client{Transport: h}
			for range 2 { // the second time the TLS session may be resumed
				_, err = c.Version(t.Context())
			}
			if tt.says == "" && err != nil {
				t.Fatal(err)
			}
			if tt.says != "" && (!errors.Is(err, pve.Untrusted) || !strings.Contains(err.Error(), tt.says) || calls.Load() != 0) {
				t.Errorf("error %v after %d requests, want %v with the fingerprint", err, calls.Load(), pve.Untrusted)
			}
		})
	}
}

func TestInvalidSettings(t *testing.T) {
	const good = "https://pve.example.com:8006"
	sum := strings.Repeat("ab", 32)
	tests := []struct {
		name  string
		url   string
		token redact.String
		trust pve.Trust
	}{
		{"http", "http://pve.example.com:8006", token, pve.Trust{}},
		{"no-scheme", "pve.example.com:8006", token, pve.Trust{}},
		{"user-in-url", "https://root:" + secret + "@pve.example.com", token, pve.Trust{}},
		{"query", good + "?x=" + secret, token, pve.Trust{}},
		{"no-token", good, "", pve.Trust{}},
		{"token-without-name", good, secret, pve.Trust{}},
		{"token-without-secret", good, "root@pam!mcp=", pve.Trust{}},
		{"token-name-too-short", good, "root@pam!x=" + secret, pve.Trust{}},
		{"token-with-newline", good, "root@pam!mcp=" + secret + "\r\nX: y", pve.Trust{}},
		{"token-with-prefix", good, "PVEAPIToken=root@pam!mcp=" + secret, pve.Trust{}},
		{"short-fingerprint", good, token, pve.Trust{Fingerprint: "AB:CD"}},
		{"bad-ca", good, token, pve.Trust{CA: []byte("no pem")}},
		{"two-trusts", good, token, pve.Trust{Fingerprint: sum, Insecure: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := pve.NewHTTPS(tt.url, pve.Auth{Token: tt.token}, tt.trust)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("error %v", err)
			}
		})
	}
	for _, url := range []string{good, "https://[2001:db8::1]:8006", good + "/", good + "/api2/json", good + "/api2/json/"} {
		if _, err := pve.NewHTTPS(url, pve.Auth{Token: token}, pve.Trust{Fingerprint: sum}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// The token reaches the server, and nothing else.
func TestTokenShowsNowhere(t *testing.T) {
	var logged bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&logged, nil))
	slog.SetDefault(logger) // where the library would log, by log too
	t.Cleanup(func() { slog.SetDefault(slog.New(slog.DiscardHandler)) })
	answers := map[string]exchange{
		"refused": recorded(t, "10 token: wrong secret"), "page": {Status: 200, Reason: "OK", Body: "<html>"},
		"failed": {Status: 500, Reason: "no", Body: `{"message":"no"}`}, "ok": recorded(t, "10 version"),
	}
	echo := `{"message":"Authorization: PVEAPIToken=` + secret + `","errors":{"x":"` + secret + `"}}`
	answers["echoed"] = exchange{Status: 400, Reason: "got " + secret, Body: echo}
	answers["echoed-by-proxy"] = exchange{Status: 404, Reason: "got " + secret}
	for name, x := range answers {
		t.Run(name, func(t *testing.T) {
			c, srv := server(t, func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.Header.Get("Authorization"), secret) {
					t.Error("the token was not sent")
				}
				x.write(w)
			})
			_, err := c.Version(t.Context())
			srv.Close()
			_, gone := c.Version(t.Context())
			if _, err := c.Start(t.Context(), pve.VM{Node: "\x7f", ID: 1}); err != nil {
				gone = errors.Join(gone, err)
			}
			js, _ := json.Marshal(c)
			logger.Info("m", "client", c, "transport", c.Transport, "err", err)
			printed := fmt.Sprintf("%v %+v %#v %v %+v %#v %s", err, err, c.Transport, gone, c, c, js) + logged.String()
			if strings.Contains(printed, secret) {
				t.Errorf("the secret is in: %s", printed)
			}
		})
	}
}

// Messages end in logs and before agents.
func TestLongMessagesAreCut(t *testing.T) {
	long := strings.Repeat("ü", 1<<20)
	for name, x := range map[string]exchange{
		"message":   {Status: 500, Reason: "no", Body: `{"message":"` + long + `"}`},
		"parameter": {Status: 400, Reason: "no", Body: `{"message":"no","errors":{"x":"` + long + `"}}`},
		"reason":    {Status: 500, Reason: long},
		"page":      {Status: 404, Reason: long},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { x.write(w) })
			_, err := c.ConvertToTemplate(t.Context(), vm(1))
			if text := err.Error(); len(text) > 10_000 || !utf8.ValidString(text) || !strings.Contains(text, "...") {
				t.Errorf("%d bytes of message", len(text))
			}
		})
	}
}

func TestLogin(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api2/json/access/ticket" {
			if r.FormValue("username") != "root@pam" || r.FormValue("password") != secret {
				t.Errorf("form %v", r.Form)
			}
			_, _ = io.WriteString(w, `{"data":{"ticket":"PVE:root@pam:T","CSRFPreventionToken":"C","username":"root@pam"}}`)
			return
		}
		if got := r.Header.Get("Authorization") + " " + r.Header.Get("CSRFPreventionToken"); got != "PVEAuthCookie=PVE:root@pam:T C" {
			t.Errorf("credentials %q", got)
		}
		_, _ = io.WriteString(w, `{"data":null}`)
	}))
	t.Cleanup(srv.Close)
	auth, err := pve.Login(t.Context(), srv.URL, pve.Trust{Insecure: true}, "root@pam", secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := client(t, srv, auth).CreatePool(t.Context(), "agentlab", ""); err != nil {
		t.Error(err)
	}
}
