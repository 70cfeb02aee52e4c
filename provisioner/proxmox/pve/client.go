// Package pve makes the Proxmox VE API calls that AgentLab uses.
//
// A [Client] has one typed method per call. Below it is a [Transport], of
// which there are two: [HTTPS] with an API token, and [Pvesh], which runs
// Proxmox's own command line on a node. What is odd about Proxmox ends here:
// error texts become an [Error] with a [Kind] (PVE has no 404; most failures
// are a 500 and a sentence), numbers that arrive as text are numbers, bytes
// that arrive as Latin-1 are bytes, and [Client.Wait] awaits a task.
//
// Nothing is logged. No error holds a secret, and the token is sent in a
// header only.
//
// Statements about PVE's behaviour were measured on 8.4.21 and 9.2.11, or name
// the PVE source file they were read from.
package pve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Transport carries calls to one Proxmox VE installation.
type Transport interface {
	// Do makes one call and returns its result, the JSON under "data"; it is
	// nil for calls that return nothing. A failure is an *Error or wraps the
	// error of ctx. Do never makes a call twice.
	Do(ctx context.Context, r Request) (json.RawMessage, error)
}

// Request is one API call.
type Request struct {
	Method string     // GET, POST, PUT or DELETE
	Path   []string   // unescaped segments: nodes, pve, qemu, 100, config
	Params url.Values // unescaped; a key with several values is an array
	// File is sent with the parameters, which then are content only; nil is none.
	File *File
}

// File is one that is uploaded.
type File struct {
	Name string
	Data []byte
}

// String names the call without its parameters, which may hold secrets.
func (r Request) String() string { return r.Method + " /" + strings.Join(r.Path, "/") }

// Name says which of the calls it is, without what differs from one node,
// machine, task or volume to another: "POST nodes/qemu/clone".
func (r Request) Name() string {
	var words []string
	one := false // of what the word before is a collection of
	for _, word := range r.Path {
		if !one {
			words = append(words, word)
		}
		switch word {
		case "nodes", "qemu", "tasks", "storage", "content", "snapshot", "users", "token", "roles":
			one = !one
		default:
			one = false
		}
	}
	return r.Method + " " + strings.Join(words, "/")
}

// check refuses a path that would reach another call than the one meant: PVE
// unescapes the whole path before it splits it (PVE/APIServer/AnyEvent.pm), so
// escaping can't protect a segment. Only the last may hold slashes: the name
// of a volume does.
func (r Request) check() error {
	for i, s := range r.Path {
		last := i == len(r.Path)-1
		bad := s == "" || s == "." || s == ".." || strings.ContainsFunc(s, isControl) ||
			strings.Contains(s, "/") && (!last || strings.Contains("/"+s+"/", "/../"))
		if bad {
			return &Error{Kind: Parameter, Call: r.String(), Message: fmt.Sprintf("%q can't be part of a path", s)}
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Client makes calls over a Transport, which must be set first and then kept.
// All methods may be used at once from many goroutines.
type Client struct {
	Transport Transport

	mu      sync.Mutex
	pollers map[string]*poller // by node; only nodes with awaited tasks
	history history
}

// pauses before each repeat of a call that may be repeated.
var pauses = []time.Duration{20 * time.Millisecond, 400 * time.Millisecond}

// call makes the call e and decodes its result into out, unless that is nil.
// It repeats the call where the table of endpoints says that this is safe.
func (c *Client) call(ctx context.Context, e endpoint, args []any, params url.Values, out any) error {
	return c.send(ctx, e, e.request(args, params), out)
}

func (c *Client) send(ctx context.Context, e endpoint, r Request, out any) error {
	if err := r.check(); err != nil {
		return err
	}
	data, err := c.Transport.Do(ctx, r)
	for _, pause := range pauses {
		if err == nil || !e.repeatable(err) {
			break
		}
		if !Sleep(ctx, pause) {
			return err
		}
		data, err = c.Transport.Do(ctx, r)
	}
	if err != nil {
		return err
	}
	return decode(r, data, out)
}

func decode(r Request, data json.RawMessage, out any) error {
	if out == nil {
		return nil
	}
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return &Error{Kind: BadAnswer, Call: r.String(), Message: "the answer has no data"}
	}
	if err := json.Unmarshal(data, out); err != nil {
		return &Error{Kind: BadAnswer, Call: r.String(), Message: fmt.Sprintf("the answer can't be understood: %v", err)}
	}
	return nil
}

// Sleep waits for d and reports whether ctx is still alive.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// task makes a call that starts a task.
func (c *Client) task(ctx context.Context, e endpoint, args []any, params url.Values) (UPID, error) {
	return c.begin(ctx, e, e.request(args, params))
}

func (c *Client) begin(ctx context.Context, e endpoint, r Request) (UPID, error) {
	var id UPID
	if err := c.send(ctx, e, r, &id); err != nil {
		return "", err
	}
	if id.Node() == "" {
		return "", &Error{Kind: BadAnswer, Call: r.String(), Message: fmt.Sprintf("%q is not a task id", id)}
	}
	return id, nil
}

// fields builds parameters from pairs of name and value; an empty value is
// left out, since PVE takes an empty one for "set to nothing".
func fields(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

// flag is PVE's way to write a boolean parameter; false is left out by fields.
func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// is reports whether err is of any of these kinds.
func is(err error, kinds ...Kind) bool {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}
