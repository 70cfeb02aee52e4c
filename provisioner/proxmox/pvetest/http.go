package pvetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// maxPost limits a form or JSON body (pve-http-server AnyEvent.pm:55).
const maxPost = 512 << 10

// Handler is the pveproxy of one node, for a server of the caller's own. It
// needs HTTP/1.1 connections that can be hijacked: net/http can't send the
// reason phrases that PVE puts its error texts in.
func (s *Server) Handler(node string) http.Handler {
	s.start()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := func() {}
		rep := s.answer(node, r, &done)
		rep.send(w, r)
		done()
	})
}

// ServeHTTP answers as the first node does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.start()
	s.mu.Lock()
	node := s.c.Nodes[0].Name
	s.mu.Unlock()
	s.Handler(node).ServeHTTP(w, r)
}

// answer does all the work of a request.
func (s *Server) answer(node string, r *http.Request, done *func()) *reply {
	if s.nodeDown(node) {
		return &reply{drop: true}
	}
	var fault *Fault
	if s.Fail != nil {
		fault = s.Fail(r)
	}
	if fault != nil && !fault.After {
		return fault.reply(s)
	}
	rep := s.process(node, r, done)
	if fault != nil {
		return fault.reply(s)
	}
	return rep
}

func (s *Server) nodeDown(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.c.node(name)
	return n == nil || n.Down
}

// process authenticates and reads the request and calls what it names.
func (s *Server) process(node string, r *http.Request, done *func()) *reply {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api2/json/")
	extjs := false
	if !ok {
		if path, extjs = strings.CutPrefix(r.URL.EscapedPath(), "/api2/extjs/"); !extjs {
			return &reply{status: 501, body: []byte("no such file"), text: true, reason: "no such file"}
		}
	}
	segs, err := splitPath(path)
	if err != nil {
		return s.failed(&apiError{status: 400, message: err.Error(), text: true}, false)
	}
	who, aerr := s.authenticate(r, segs)
	if aerr != nil {
		_ = s.pause(s.authDelay())
		return s.failed(aerr, false)
	}
	if s.Hold != nil {
		*done = s.Hold(r)
		if *done == nil {
			*done = func() {}
		}
	}
	in, file, aerr := readParams(r)
	if aerr != nil {
		return s.failed(aerr, false)
	}
	data, aerr := s.call(&call{s: s, entry: node, who: who, method: r.Method, segs: segs, in: in, file: file})
	if aerr != nil {
		if aerr.status == 401 {
			_ = s.pause(s.authDelay())
		}
		return s.failed(aerr, extjs)
	}
	return s.succeeded(data, extjs)
}

// pause sleeps while nothing is locked.
func (s *Server) pause(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sleep(s.ctx, d)
}

func (s *Server) authDelay() time.Duration {
	if s.AuthDelay != 0 {
		return s.AuthDelay
	}
	return s.scaled(3 * time.Second)
}

// splitPath cuts a path into its decoded parts.
func splitPath(path string) ([]string, error) {
	var segs []string
	for seg := range strings.SplitSeq(path, "/") {
		if seg == "" {
			continue
		}
		dec, err := url.PathUnescape(seg)
		if err != nil {
			return nil, err
		}
		segs = append(segs, dec)
	}
	return segs, nil
}

// readParams takes the parameters out of query and body as AnyEvent.pm does,
// and the file if one is uploaded.
func readParams(r *http.Request) (in map[string]any, file []byte, err *apiError) {
	in = map[string]any{}
	decodeForm(r.URL.RawQuery, in)
	if r.ContentLength == 0 || r.Body == nil {
		return in, nil, nil
	}
	refuse := func(format string, args ...any) *apiError {
		return &apiError{status: 501, message: fmt.Sprintf(format, args...), text: true, exact: true}
	}
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		return nil, nil, refuse("Unexpected content for method '%s'", r.Method)
	}
	ctype, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if ctype == "multipart/form-data" && strings.HasSuffix(r.URL.Path, "/upload") {
		file, err = readUpload(r, in)
		return in, file, err
	}
	if r.ContentLength > maxPost {
		return nil, nil, refuse("for data too large")
	}
	body, rerr := io.ReadAll(io.LimitReader(r.Body, maxPost+1))
	if rerr != nil || len(body) > maxPost {
		return nil, nil, refuse("for data too large")
	}
	switch ctype {
	case "", "application/x-www-form-urlencoded":
		decodeForm(string(body), in)
	case "application/json":
		return in, nil, decodeJSON(body, in)
	default:
		return nil, nil, &apiError{status: 506, message: fmt.Sprintf("upload 'Content-Type '%s' not implemented", ctype), text: true, exact: true}
	}
	return in, nil, nil
}

// uploadParts are what an upload may consist of, in this order and no other
// (AnyEvent.pm file_upload_multipart; measured).
var uploadParts = []string{"content", "checksum-algorithm", "checksum", "filename"}

// readUpload takes an upload apart.
func readUpload(r *http.Request, in map[string]any) ([]byte, *apiError) {
	bad := &apiError{status: 400, message: "Bad Request", bare: true}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, bad
	}
	next := 0
	for {
		p, err := parts.NextPart()
		if err != nil {
			return nil, bad // it ends before the file
		}
		i := slices.Index(uploadParts[next:], p.FormName())
		data, err := io.ReadAll(p)
		if i < 0 || err != nil {
			return nil, bad
		}
		next += i + 1
		if p.FormName() == "filename" {
			in["filename"] = p.FileName()
			return data, nil
		}
		in[p.FormName()] = string(data)
	}
}

// decodeForm splits at "&" and ";" (AnyEvent.pm decode_urlencoded); a repeated
// key makes an array.
func decodeForm(form string, in map[string]any) {
	for _, pair := range strings.FieldsFunc(form, func(r rune) bool { return r == '&' || r == ';' }) {
		k, v, _ := strings.Cut(pair, "=")
		key, err1 := url.QueryUnescape(k)
		val, err2 := url.QueryUnescape(v)
		if err1 != nil || err2 != nil {
			key, val = k, v // Perl leaves what is no escape as it is
		}
		switch old := in[key].(type) {
		case nil:
			in[key] = val
		case string:
			in[key] = []string{old, val}
		case []string:
			in[key] = append(old, val)
		}
	}
}

// decodeJSON flattens an object to what a form would have given.
func decodeJSON(body []byte, in map[string]any) *apiError {
	var obj map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&obj); err != nil {
		return &apiError{status: 500, text: true, message: fmt.Sprintf("malformed JSON string, neither tag, array, object, number, string or atom, "+
			"at character offset %d (before \"(end of string)\") at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line 917.", len(body))}
	}
	for k, v := range obj {
		switch v := v.(type) {
		case nil:
		case []any:
			list := make([]string, len(v))
			for i, e := range v {
				list[i] = scalar(e)
			}
			in[k] = list
		case map[string]any:
			in[k] = v
		default:
			in[k] = scalar(v)
		}
	}
	return nil
}

func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		if v {
			return "1"
		}
		return "0"
	case json.Number:
		return v.String()
	}
	return fmt.Sprint(v)
}

// reply is what goes over the wire.
type reply struct {
	status int
	reason string
	body   []byte
	text   bool // no content type
	plain  bool // text/plain
	drop   bool
}

func (f *Fault) reply(s *Server) *reply {
	if f.Drop {
		return &reply{drop: true}
	}
	if f.Status > 590 || f.Status == 401 {
		return &reply{status: f.Status, reason: f.Reason}
	}
	return s.failed(&apiError{status: f.Status, message: f.Reason}, false)
}

// succeeded wraps data in the envelope of the format.
func (s *Server) succeeded(data any, extjs bool) *reply {
	env := map[string]any{"data": data}
	switch d := data.(type) {
	case download:
		return &reply{status: 200, reason: "OK", body: []byte(d), plain: true}
	case paged:
		env = map[string]any{"data": d.data}
		if d.hasTotal {
			env["total"] = d.total
		}
	}
	if extjs {
		env["success"] = 1
	}
	return &reply{status: 200, reason: "OK", body: encode(env)}
}

// failed is the answer to an error: its text in the reason phrase, and since
// pve-http-server 5.2.0 (PVE 8.4) in the body (Formatter/Standard.pm:36).
func (s *Server) failed(e *apiError, extjs bool) *reply {
	if e.close {
		return &reply{drop: true}
	}
	reason, _, _ := strings.Cut(e.message, "\n")
	rep := &reply{status: e.status, reason: reason}
	msg := e.message
	if !e.exact {
		msg += "\n"
	}
	if e.text {
		rep.body, rep.text = []byte(msg), true
		return rep
	}
	if e.bare {
		return rep
	}
	env := map[string]any{"data": nil}
	if s.release() >= 804 || extjs {
		env["message"] = msg
	}
	if e.errors != nil {
		env["errors"] = e.errors
	}
	if extjs {
		env["success"], env["status"] = 0, e.status
		rep.status, rep.reason = 200, "OK"
	}
	rep.body = encode(env)
	return rep
}

func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("pvetest: encode an answer: %v", err)) // ours, not the client's, mistake
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// send writes the reply. A 200 goes the usual way and keeps the connection; all
// others close it, as AnyEvent.pm:324 does, and are written by hand.
func (rep *reply) send(w http.ResponseWriter, r *http.Request) {
	now := time.Now().UTC().Format(http.TimeFormat)
	h := w.Header()
	h.Set("Cache-Control", "max-age=0")
	h.Set("Pragma", "no-cache")
	h.Set("Server", "pve-api-daemon/3.0")
	h.Set("Date", now)
	h.Set("Expires", now)
	switch {
	case rep.plain:
		h.Set("Content-Type", "text/plain")
	case !rep.text && len(rep.body) > 0:
		h.Set("Content-Type", "application/json;charset=UTF-8")
	}
	if rep.status == 200 && !rep.drop {
		if n, ok := r.Context().Value(requestCount{}).(*atomic.Int32); ok && n.Add(1) >= perConnection {
			h.Set("Connection", "close")
		}
		h.Set("Content-Length", fmt.Sprint(len(rep.body)))
		_, _ = w.Write(rep.body) // a client that has gone away is its own business
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "pvetest needs an HTTP/1.1 connection: "+err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = conn.Close() }()
	if rep.drop {
		return
	}
	h.Set("Connection", "close")
	if len(rep.body) > 0 {
		h.Set("Content-Length", fmt.Sprint(len(rep.body)))
	}
	_, _ = fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\n", rep.status, rep.reason)
	_ = h.Write(buf)
	_, _ = buf.WriteString("\r\n")
	_, _ = buf.Write(rep.body)
	_ = buf.Flush()
}

// paged is a list with the total of which it is a part.
type paged struct {
	data     any
	total    int
	hasTotal bool
}

// download is a body that is no JSON.
type download string
