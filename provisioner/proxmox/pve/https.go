package pve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Telmate/proxmox-api-go/proxmox"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

const (
	// PVE takes forms of 512 KiB, and cuts the connection while a longer one
	// is still being written (PVE/APIServer/AnyEvent.pm; measured).
	maxForm = 512 << 10
	// The longest answer: 16 MiB of a guest's file, each byte as \u0000.
	maxAnswer = 128 << 20
	// pveproxy gives up on a worker after 30 s, but a call may queue for a
	// free worker before that (measured: 42 s).
	maxCall = 2 * time.Minute
	// All are kept: a burst of short calls would else spend its time in
	// handshakes.
	maxConns = 64
	// pveproxy closes a connection that was idle for 5 s (measured).
	maxIdle = 4 * time.Second
)

// Auth is who calls: a token, or a ticket as [Login] gives.
type Auth struct {
	Token        redact.String // USER@REALM!NAME=SECRET
	Ticket, CSRF redact.String
}

// check says what is wrong with the token, never what it is.
func (a Auth) check() error {
	if a.Token == "" && a.Ticket == "" {
		return errors.New("no API token is set")
	}
	if a.Token == "" {
		return nil
	}
	name, secret, ok := strings.Cut(a.Token.Reveal(), "=")
	var id proxmox.ApiTokenID
	printable := func(r rune) bool { return r > ' ' && r < 0x7f }
	if !ok || secret == "" || id.Parse(name) != nil || id.Validate() != nil ||
		strings.ContainsFunc(secret, func(r rune) bool { return !printable(r) }) {
		return errors.New("the API token is not of the form USER@REALM!NAME=SECRET")
	}
	return nil
}

// HTTPS is the Transport to pveproxy.
type HTTPS struct {
	// Dial connects to the server; nil is by TCP. It is set before the first call.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	base string // https://host:8006/api2/json
	// session returns a value of the library's that adds the credentials to a
	// request. It is a function since fmt prints what unexported fields hold,
	// secrets that mask themselves included.
	session func() *proxmox.Session
	client  *http.Client
	limit   time.Duration // of a call
	longest int64         // answer, in bytes
	workers workers
}

// NewHTTPS returns a transport to the API at base, such as
// https://pve.example.com:8006; a path /api2/json may be given or not.
func NewHTTPS(base string, auth Auth, trust Trust) (*HTTPS, error) {
	if err := auth.check(); err != nil {
		return nil, err
	}
	return newHTTPS(base, auth, trust)
}

func newHTTPS(base string, auth Auth, trust Trust) (*HTTPS, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the API URL is not of the form https://HOST:8006")
	}
	tlsConfig, err := trust.config()
	if err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/api2/json")
	h := &HTTPS{}
	*h = HTTPS{
		limit:   maxCall,
		longest: maxAnswer,
		base:    (&url.URL{Scheme: "https", Host: u.Host, Path: path + "/api2/json"}).String(),
		session: func() *proxmox.Session {
			return &proxmox.Session{AuthToken: auth.Token.Reveal(), AuthTicket: auth.Ticket.Reveal(), CsrfToken: auth.CSRF.Reveal()}
		},
		client: &http.Client{
			// PVE never redirects; a token must not follow one.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         h.dial,
				TLSClientConfig:     tlsConfig,
				TLSHandshakeTimeout: 20 * time.Second,
				IdleConnTimeout:     maxIdle,
				MaxIdleConnsPerHost: maxConns,
				MaxConnsPerHost:     maxConns,
				DisableCompression:  true,
			},
		},
	}
	return h, nil
}

func (h *HTTPS) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if h.Dial != nil {
		return h.Dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// Do implements Transport.
func (h *HTTPS) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	release, err := h.workers.acquire(ctx, r)
	if err != nil {
		return nil, err
	}
	defer release()
	var sent atomic.Bool
	limited, cancel := context.WithTimeout(ctx, h.limit)
	defer cancel()
	traced := httptrace.WithClientTrace(limited, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	req, err := h.request(traced, r)
	if err != nil {
		return nil, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, lost(ctx, r, err, sent.Load())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, h.longest+1))
	if err != nil {
		return nil, lost(ctx, r, err, true)
	}
	if int64(len(body)) > h.longest {
		return nil, &Error{Kind: TooLarge, Call: r.String(), Message: fmt.Sprintf("the answer is longer than %d bytes", h.longest)}
	}
	if resp.StatusCode != http.StatusOK {
		resp.Status, body = h.mask(resp.Status), []byte(h.mask(string(body)))
	}
	return answer(r, resp, body)
}

// mask takes our credentials out of what a server, or a proxy before it, may
// have echoed.
func (h *HTTPS) mask(text string) string {
	s := h.session()
	_, secret, _ := strings.Cut(s.AuthToken, "=")
	for _, known := range []string{secret, s.AuthTicket, s.CsrfToken} {
		if known != "" {
			text = strings.ReplaceAll(text, known, fmt.Sprint(redact.String(known)))
		}
	}
	return text
}

// request builds the HTTP request, by the library's session. Its own way of
// sending does not serve: it reads without limit, loses the reason phrase that
// is PVE 8.3's only error text, and can dump credentials into the log.
func (h *HTTPS) request(ctx context.Context, r Request) (*http.Request, error) {
	var target strings.Builder
	target.WriteString(h.base)
	for _, s := range r.Path {
		target.WriteString("/" + url.PathEscape(s))
	}
	form, ctype, err := encodeBody(r)
	if err != nil {
		return nil, err
	}
	// A body that net/http can't rewind keeps it from repeating a call by
	// itself: which calls may be repeated is not a matter of the method.
	body := io.NopCloser(strings.NewReader(""))
	inQuery := r.Method == http.MethodGet || r.Method == http.MethodDelete // PVE refuses a body there
	if inQuery && form != "" {
		target.WriteString("?" + form)
	} else if !inQuery {
		body = io.NopCloser(strings.NewReader(form))
	}
	req, err := h.session().NewRequest(ctx, r.Method, target.String(), nil, body)
	if err != nil {
		return nil, &Error{Kind: Parameter, Call: r.String(), Message: "the call makes no valid request"}
	}
	if inQuery {
		// net/http looks for 200 ms whether such a body is empty, and on a busy
		// machine announces one after all, which PVE refuses.
		req.TransferEncoding = []string{"identity"}
	} else {
		req.ContentLength = int64(len(form))
		req.Header.Set("Content-Type", ctype)
		if form == "" {
			req.Body = http.NoBody
		}
	}
	return req, nil
}

// encodeBody writes the parameters as a form; with a file, as one of several
// parts, the file last: PVE takes them in no other order (measured).
func encodeBody(r Request) (body, ctype string, err error) {
	form := r.Params.Encode()
	if len(form) > maxForm {
		return "", "", &Error{Kind: TooLarge, Call: r.String(), Message: fmt.Sprintf("parameters have %d bytes, at most %d can be sent", len(form), maxForm)}
	}
	if r.File == nil {
		return form, "application/x-www-form-urlencoded", nil
	}
	var b strings.Builder
	w := multipart.NewWriter(&b)
	err = w.WriteField("content", r.Params.Get("content"))
	part, perr := w.CreateFormFile("filename", r.File.Name)
	if err = errors.Join(err, perr); err == nil {
		_, err = part.Write(r.File.Data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return "", "", fmt.Errorf("%s: %w", r, err)
	}
	return b.String(), w.FormDataContentType(), nil
}

// lost explains a call that got no answer.
func lost(ctx context.Context, r Request, err error, sent bool) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", r, ctx.Err())
	}
	if uerr, ok := errors.AsType[*url.Error](err); ok {
		err = uerr.Err // without the URL, whose query may be long
	}
	e := &Error{Call: r.String(), Message: short(err.Error()), cause: err}
	text, untrusted := mistrust(err)
	switch {
	case untrusted:
		e.Kind, e.Message = Untrusted, text
	case !sent:
		e.Kind = Unreachable
	case errors.Is(err, context.DeadlineExceeded):
		e.Kind, e.Message = Interrupted, "no answer for too long"
	default:
		e.Kind = ConnectionLost
	}
	return e
}

// cut takes the value of data out of an answer that begins with it, and puts null
// in its place, so that what may be megabytes is parsed only once, as what it is
// wanted as. Whether it is valid is seen then.
func cut(body []byte) (data json.RawMessage, rest []byte) {
	const name = `{"data":`
	value, ok := bytes.CutPrefix(body, []byte(name))
	if !ok {
		return nil, body
	}
	end := valueLength(value)
	return bytes.TrimSpace(value[:end]), append([]byte(name+"null"), value[end:]...)
}

// valueLength is how long the JSON value is that b begins with.
func valueLength(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth < 0 || depth == 0 && b[i] == ',' {
			return i
		}
	}
	return len(b)
}

// answer takes an HTTP response apart.
func answer(r Request, resp *http.Response, body []byte) (json.RawMessage, error) {
	var a struct {
		Data    json.RawMessage
		Message string // PVE 8.4 and later; before, only the reason phrase
		Errors  map[string]Text
	}
	data, rest := cut(body)
	err := json.Unmarshal(rest, &a)
	if resp.StatusCode == http.StatusOK {
		if data != nil {
			a.Data = data
		}
		if err != nil || !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
			return nil, notProxmox(r, resp)
		}
		return a.Data, nil
	}
	if resp.StatusCode < 400 || resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
		return nil, notProxmox(r, resp) // PVE has no such answers
	}
	e := &Error{Call: r.String(), Status: resp.StatusCode, Message: a.Message}
	if strings.TrimSpace(a.Message) == "" {
		_, e.Message, _ = strings.Cut(resp.Status, " ")
	}
	for name, text := range a.Errors {
		e.param(name, strings.TrimSpace(string(text)))
	}
	return nil, classify(e)
}

func notProxmox(r Request, resp *http.Response) *Error {
	return &Error{Kind: BadAnswer, Call: r.String(), Status: resp.StatusCode, Message: fmt.Sprintf(
		"the answer %q is not from a Proxmox VE API; is its URL right?", short(resp.Status))}
}

// Login gets a ticket for a user such as root@pam, which holds for 2 h. A user
// with a second factor can't log in this way.
func Login(ctx context.Context, base string, trust Trust, user string, password redact.String) (Auth, error) {
	h, err := newHTTPS(base, Auth{}, trust)
	if err != nil {
		return Auth{}, err
	}
	var t struct {
		Ticket  string
		CSRF    string `json:"CSRFPreventionToken"`
		NeedTFA Bool
	}
	c := &Client{Transport: h}
	params := url.Values{"username": {user}, "password": {password.Reveal()}}
	if err := c.call(ctx, postTicket, nil, params, &t); err != nil {
		return Auth{}, fmt.Errorf("log in as %s: %w", user, err)
	}
	if t.NeedTFA || t.Ticket == "" {
		return Auth{}, fmt.Errorf("log in as %s: a second factor is needed", user)
	}
	return Auth{Ticket: redact.String(t.Ticket), CSRF: redact.String(t.CSRF)}, nil
}
