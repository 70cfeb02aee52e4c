package histories

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"time"
)

// pipes is a network in memory, whose reads and writes count as waiting in a
// bubble of fake time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close()
	return nil
}

// Addr is one that no proxy is asked for.
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8006} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	one, other := net.Pipe()
	ours, theirs := newEager(one), newEager(other)
	var err error
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, ours.Close(), theirs.Close())
}

// trouble is what goes wrong with a call on its way.
type trouble int

// The ways in which a call goes wrong.
const (
	unsent    trouble = iota // it does not arrive
	lost                     // it is done, and the answer does not arrive
	refused                  // a 500 though nothing was done
	proxyGone                // a 596, though it was done
	twice                    // it arrives twice
	slow                     // it takes a minute
	troubles  = int(slow) + 1
)

func (t trouble) String() string {
	return [...]string{"unsent", "answer lost", "500", "done and 596", "twice", "slow"}[t]
}

// vmidCall is a call to a machine.
var vmidCall = regexp.MustCompile(`/qemu/(\d+)(/\w+)?`)

// pveproxy is the server of the simulator, with trouble on the way to it.
type pveproxy struct {
	next   http.Handler
	watch  func(*http.Request)                      // of each call that arrives
	choose func(*http.Request) (t trouble, ok bool) // what goes wrong with this one
}

func (p *pveproxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, wrong := p.choose(r)
	if !wrong {
		p.watch(r)
		p.next.ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body) // a client that breaks off is its own business
	do := func(w http.ResponseWriter) {
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		p.watch(again)
		p.next.ServeHTTP(w, again)
	}
	switch t {
	case unsent:
		hangUp(w, "")
	case lost:
		do(httptest.NewRecorder())
		hangUp(w, "")
	case refused:
		hangUp(w, "HTTP/1.1 500 got no worker upid - start worker failed\r\nConnection: close\r\n\r\n")
	case proxyGone:
		do(httptest.NewRecorder())
		hangUp(w, "HTTP/1.1 596 Broken pipe\r\nConnection: close\r\n\r\n")
	case twice:
		do(httptest.NewRecorder())
		do(w)
	case slow:
		time.Sleep(time.Minute)
		do(w)
	}
}

// hangUp breaks a connection after a last word.
func hangUp(w http.ResponseWriter, word string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is broken already
	}
	_, _ = io.WriteString(conn, word)
	_ = conn.Close()
}
