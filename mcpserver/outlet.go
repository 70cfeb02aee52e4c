package mcpserver

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// outlet is where messages to a client go, each whole and one after the other.
// A client that takes too long to read one is given up, so that what waits to
// be written does not pile up.
type outlet struct {
	// put writes a message. answer is what it says if it is the last for a request.
	put func(line []byte, answer *response) error
	// nothing is sent so that something is; nil if the transport needs no such thing.
	nothing func() error
	// broke is called when writing fails.
	broke func(error)

	mu   sync.Mutex
	over bool
}

// end drops what is sent from now on: what it went to is not there any more.
func (o *outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// send writes a message for r, unless that was cancelled. r is nil if it
// belongs to no request; answer is set if it is the last for r.
func (o *outlet) send(r *call, line []byte, answer *response) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if answer != nil {
		r.forget()
	}
	if o.over || r != nil && r.cancelled.Load() {
		return
	}
	if err := o.put(line, answer); err != nil {
		o.broke(err)
	}
}

// write writes what is no message.
func (o *outlet) write(put func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	if err := put(); err != nil {
		o.broke(err)
	}
}

// ping sends nothing.
func (o *outlet) ping() {
	if o.nothing != nil {
		o.write(o.nothing)
	}
}

// events writes server-sent events to the response to a request.
type events struct {
	w       http.ResponseWriter
	timeout time.Duration // for the client to read one
	begun   bool
}

// begin sends the header.
func (e *events) begin() {
	e.begun = true
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // asks proxies to pass on each event at once
	e.w.WriteHeader(http.StatusOK)
}

// event sends an event of that name.
func (e *events) event(name string, data []byte) error {
	return e.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, bytes.TrimSuffix(data, []byte("\n"))))
}

// comment sends what clients ignore.
func (e *events) comment() error { return e.write([]byte(": \n\n")) }

func (e *events) write(text []byte) error {
	if !e.begun {
		e.begin()
	}
	rc := http.NewResponseController(e.w)
	if err := rc.SetWriteDeadline(time.Now().Add(e.timeout)); err != nil {
		return err
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return rc.Flush()
}
