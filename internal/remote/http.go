package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/release"
)

// post sends a message and gives each that comes for it to got. It says whether
// the last of them, the answer, was among them. A request that the server has
// not begun to serve is sent again; one that it has is not: it may be done.
func (b *Bridge) post(ctx context.Context, msg wire, line []byte, got func([]byte)) (answered bool, err error) {
	end := time.Now().Add(patience)
	for again := true; ; {
		res, err := b.do(ctx, http.MethodPost, msg, line)
		var dial *net.OpError
		refused := errors.As(err, &dial) && dial.Op == "dial"
		switch {
		case err != nil && ctx.Err() != nil: // the client wants it no more
			return false, ctx.Err()
		case refused && time.Now().Before(end), err == nil && res.StatusCode == http.StatusServiceUnavailable && time.Now().Before(end):
			if err == nil {
				_ = res.Body.Close()
			}
			if !sleep(ctx, time.Second) {
				return false, ctx.Err()
			}
			continue
		case err != nil:
			return false, b.unreachable(err, refused)
		case res.StatusCode == http.StatusNotFound && again && b.lost(msg):
			_ = res.Body.Close()
			again = false
			if err := b.reopen(ctx); err != nil {
				return false, err
			}
			continue
		}
		defer func() { _ = res.Body.Close() }()
		b.mu.Lock()
		b.reached = true
		b.mu.Unlock()
		return b.response(res, msg, line, got)
	}
}

// sleep waits for d and returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// unreachable words that a request got no answer.
func (b *Bridge) unreachable(err error, refused bool) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // it says the URL, too
	}
	mend := mendTLS(err)
	err = fmt.Errorf("%s can't be reached: %w%s", b.url, err, mend)
	if !refused && mend == "" {
		err = fmt.Errorf("%w; whether it has done what was asked is not known", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	return err
}

// do makes one HTTP request.
func (b *Bridge) do(ctx context.Context, method string, msg wire, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	h := req.Header
	h.Set("Accept", "application/json, text/event-stream")
	h.Set("User-Agent", "agentlab/"+release.Version())
	if method == http.MethodPost {
		h.Set("Content-Type", "application/json")
	}
	token, err := b.server.Token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		h.Set("Authorization", "Bearer "+token.Reveal())
	}
	b.mu.Lock()
	session := b.session
	b.mu.Unlock()
	switch {
	case msg.modern():
		h.Set("Mcp-Protocol-Version", msg.Params.Meta.Version)
		h.Set("Mcp-Method", msg.Method)
		if name := msg.name(); name != "" {
			h.Set("Mcp-Name", name)
		}
	case msg.Method != "initialize" && session.id != "":
		h.Set("Mcp-Session-Id", session.id)
		h.Set("Mcp-Protocol-Version", session.version)
	}
	return b.client.Do(req)
}

// name is the Mcp-Name of a request: what it calls, gets or reads, in the form
// that 2026-07-28 gives to what would not pass as a header.
func (w wire) name() string {
	raw := w.Params.Name
	if w.Method == "resources/read" {
		raw = w.Params.URI
	}
	var name string
	if json.Unmarshal(raw, &name) != nil {
		return ""
	}
	plain := name == strings.TrimSpace(name) && !strings.HasPrefix(name, "=?base64?")
	for _, r := range name {
		plain = plain && r >= ' ' && r <= '~'
	}
	if plain {
		return name
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(name)) + "?="
}

// response reads what the server says to a message.
func (b *Bridge) response(res *http.Response, msg wire, line []byte, got func([]byte)) (answered bool, err error) {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	take := func(text []byte) {
		var answer wire
		_ = json.Unmarshal(text, &answer)
		if answer.Method == "" && bytes.Equal(answer.ID, msg.ID) {
			answered = true
			b.opened(res, msg, line, answer)
		}
		if got != nil {
			got(text)
		}
	}
	switch {
	case kind == "text/event-stream":
		err = readEvents(res.Body, take)
	case res.StatusCode == http.StatusAccepted:
		return false, nil
	default:
		var text []byte
		if text, err = io.ReadAll(res.Body); err != nil {
			break
		}
		var answer wire
		if kind == "application/json" && json.Unmarshal(text, &answer) == nil && bytes.Equal(answer.ID, msg.ID) {
			take(text)
			return true, nil
		}
		return false, refusedBy(res, text)
	}
	if !answered && err == nil {
		err = errors.New("its response ended without the answer")
	}
	if err != nil && res.Request.Context().Err() == nil {
		err = b.unreachable(err, false)
	}
	return answered, err
}

// refusedBy words a response that is no answer to the request.
func refusedBy(res *http.Response, text []byte) error {
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(text, &said)
	const most = 300
	if said.Error.Message == "" {
		said.Error.Message = strings.TrimSpace(string(text[:min(most, len(text))]))
	}
	hint := ""
	switch res.StatusCode {
	case http.StatusUnauthorized:
		hint = "; give it a token that is valid, by AGENTLAB_TOKEN or the file of --token-file"
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusOK:
		hint = "; is that the address of an MCP endpoint? AgentLab's ends in /mcp"
	}
	return fmt.Errorf("%s answers %s: %s%s", res.Request.URL, res.Status, said.Error.Message, hint)
}

// opened remembers the session that a request has opened.
func (b *Bridge) opened(res *http.Response, msg wire, line []byte, answer wire) {
	if msg.Method != "initialize" || answer.Error != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session = bridgeSession{id: res.Header.Get("Mcp-Session-Id"), version: answer.Result.Version, opening: line}
}

// lost says that the server does not know our session any more: it has
// forgotten it or was started anew, and has not served the message.
func (b *Bridge) lost(msg wire) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session.id != "" && msg.Method != "initialize" && !msg.modern()
}

// reopen opens a session as the client has opened its own.
func (b *Bridge) reopen(ctx context.Context) error {
	b.mu.Lock()
	line := b.session.opening
	b.mu.Unlock()
	var msg wire
	if err := json.Unmarshal(line, &msg); err != nil {
		return err
	}
	if answered, err := b.post(ctx, msg, line, nil); err != nil || !answered {
		return fmt.Errorf("open a new session: %w", err)
	}
	const ready = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	_, err := b.post(ctx, wire{Method: "notifications/initialized"}, []byte(ready), nil)
	return err
}

// readEvents gives the data of each server-sent event to got.
func readEvents(src io.Reader, got func([]byte)) error {
	in := bufio.NewReaderSize(src, 64<<10)
	var data []byte
	for {
		line, err := in.ReadBytes('\n')
		if err != nil && (len(line) == 0 || !errors.Is(err, io.EOF)) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		text, isData := bytes.CutPrefix(line, []byte("data:"))
		switch {
		case len(line) == 0 && len(data) > 0:
			got(data)
			data = nil
		case isData && data != nil:
			data = append(append(data, '\n'), bytes.TrimPrefix(text, []byte(" "))...)
		case isData:
			data = bytes.Clone(bytes.TrimPrefix(text, []byte(" ")))
		}
	}
}
