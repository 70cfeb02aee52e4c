package mcpserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// changing is an Authenticator of one principal, of whom something changes.
type changing struct {
	mu  sync.Mutex
	who sessions.Principal
	err error
}

func (c *changing) Authenticate(context.Context, string) (sessions.Principal, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.who, c.err
}

func (c *changing) set(who sessions.Principal, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.who, c.err = who, err
}

// watching is a client that has subscribed to a file of a sandbox.
type watching struct {
	*premises
	auth    *changing
	web     mcpserver.Web
	sandbox string
	told    *lockedBuffer // on its stream
	over    chan error    // what ended that; nil is its end
}

// hear reads the stream from now on.
func (w *watching) hear(r *response) {
	w.told, w.over = &lockedBuffer{}, make(chan error, 1)
	go func() {
		_, err := io.Copy(w.told, r.in)
		w.over <- err
	}()
}

// eachEra has a client of each era subscribe to a file of a sandbox of owner's,
// on a clock of its own, and gives it to do. The client is "a".
func eachEra(t *testing.T, owner string, do func(t *testing.T, w *watching, modern bool)) {
	eachEraFor(t, 0, owner, do)
}

// eachEraFor is eachEra with a token that is over after ttl, unless that is 0.
func eachEraFor(t *testing.T, ttl time.Duration, owner string, do func(t *testing.T, w *watching, modern bool)) {
	for _, modern := range []bool{false, true} {
		t.Run(fmt.Sprintf("modern-%v", modern), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watching{premises: newPremises(t), auth: &changing{}}
				who := sessions.Principal{Name: "a", Scopes: []sessions.Scope{sessions.ScopeRead}}
				if ttl > 0 {
					who.Expires = time.Now().Add(ttl)
				}
				w.auth.set(who, nil)
				w.web = mcpserver.NewWeb(w.server, mcpserver.HTTP{Auth: w.auth})
				f, ln := &fixture{Server: w.server, served: make(chan error, 1), log: &lockedBuffer{}}, make(pipes)
				f.serve(t, func(ctx context.Context) error { return w.web.ServeOn(ctx, ln) })
				p := ln.peer(&httpFixture{f, t, "http://localhost"})
				p.set("Authorization", "Bearer x")
				w.sandbox = w.premises.sandbox(owner)
				uri := "sandbox://" + w.sandbox + "/files/x"
				if modern {
					stream := p.modern("subscriptions/listen", "").post(`{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["` + uri + `"]},` + modernMeta + `}}`)
					stream.wantEvent("acknowledged")
					w.hear(stream)
				} else {
					w.hear(p.initialize("2025-11-25").do(http.MethodGet, "/mcp", nil))
					p.post(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"`+uri+`"}}`).want(http.StatusOK, `"result":{}`)
				}
				synctest.Wait()
				do(t, w, modern)
			})
		})
	}
}

// wantLooks says how many resources are being looked at, some time later.
func (w *watching) wantLooks(t *testing.T, want int) {
	t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	if _, n := w.web.Lasting(); n != want {
		t.Errorf("%d resources are looked at, want %d", n, want)
	}
}

// wantEnd waits for the end of the stream, which has told of no change and has
// text in it.
func (w *watching) wantEnd(t *testing.T, text string) {
	t.Helper()
	var err error
	select {
	case err = <-w.over:
	case <-time.After(time.Hour):
		t.Fatal("the stream goes on")
	}
	if told := w.told.String(); err != nil || !strings.Contains(told, text) || strings.Contains(told, "updated") {
		t.Errorf("told %s, error %v, want %q", told, err, text)
	}
	w.wantLooks(t, 0)
	if streams, _ := w.web.Lasting(); streams != 0 {
		t.Errorf("%d streams are left", streams)
	}
}

// denied is what a stream of that era says at its end of a token that is none.
func denied(modern bool) string {
	if modern {
		return "token is not valid"
	}
	return ""
}

func TestSubscriptionEndsWithItsSandbox(t *testing.T) {
	eachEra(t, "a", func(t *testing.T, w *watching, _ bool) {
		w.wantLooks(t, 1)
		now := time.Now()
		if _, err := w.db.SetEnd(t.Context(), w.sandbox, now, sessions.Change{At: now}); err != nil {
			t.Fatal(err)
		}
		w.wantLooks(t, 0)
		if n := strings.Count(w.told.String(), "notifications/resources/updated"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.told)
		}
	})
}

// What is another's is looked at no more than what there is not.
func TestSubscriptionToAnothers(t *testing.T) {
	eachEra(t, "b", func(t *testing.T, w *watching, _ bool) { w.wantLooks(t, 0) })
}

func TestSubscriptionEndsWithARevocation(t *testing.T) {
	eachEra(t, "a", func(t *testing.T, w *watching, modern bool) {
		w.server.End("a")
		synctest.Wait() // it takes no look to notice
		if _, looks := w.web.Lasting(); looks != 0 {
			t.Errorf("%d resources are looked at", looks)
		}
		w.wantEnd(t, denied(modern))
	})
}

func TestSubscriptionEndsWithTheToken(t *testing.T) {
	eachEra(t, "a", func(t *testing.T, w *watching, modern bool) {
		w.auth.set(sessions.Principal{}, mcpserver.ErrUnauthenticated)
		w.wantEnd(t, denied(modern))
	})
}

// What a client until 2025-11-25 has subscribed to goes by the token that it has
// shown last, and a request by its own.
func TestSubscriptionOutlivesItsToken(t *testing.T) {
	eachEraFor(t, 10*time.Minute, "a", func(t *testing.T, w *watching, modern bool) {
		if modern {
			w.wantEnd(t, denied(modern))
			return
		}
		w.auth.set(sessions.Principal{Name: "a", Scopes: []sessions.Scope{sessions.ScopeRead}, Expires: time.Now().Add(time.Hour)}, nil)
		time.Sleep(20 * time.Minute)
		w.wantLooks(t, 1)
	})
}

// Scopes are asked for at each look.
func TestSubscriptionEndsWithTheScope(t *testing.T) {
	eachEra(t, "a", func(t *testing.T, w *watching, modern bool) {
		w.auth.set(sessions.Principal{Name: "a"}, nil)
		if modern {
			w.wantEnd(t, "needs the scope sandbox:read")
		} else {
			w.wantLooks(t, 0)
		}
	})
}

// That a token can't be checked at the moment ends nothing.
func TestSubscriptionOutlivesAnOutage(t *testing.T) {
	eachEra(t, "a", func(t *testing.T, w *watching, _ bool) {
		w.auth.set(sessions.Principal{}, io.ErrUnexpectedEOF)
		w.wantLooks(t, 1)
	})
}

// A stream that listens counts as one however it is asked for.
func TestListeningCountsAsAStream(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}, MaxConns: 4}, offering)
	listen := `{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["sandbox://sandboxes"]},` + modernMeta + `}}`
	modern := f.as("a").modern("subscriptions/listen", "")
	first := modern.post(listen)
	first.wantEvent("acknowledged")
	f.as("a").openSSE()
	res := modern.post(listen)
	if res.StatusCode == http.StatusOK {
		t.Fatal("a third stream is open") // it does not end
	}
	res.want(http.StatusTooManyRequests, "2 streams are open already, the most there may be at a time; close some; try again in 60 s")
	if got := res.Header.Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After %q", got)
	}
	first.Body.Close()
	for res = modern.post(listen); res.StatusCode != http.StatusOK; res = modern.post(listen) {
		res.want(http.StatusTooManyRequests, "")
		time.Sleep(10 * time.Millisecond) // the server must notice
	}
}
