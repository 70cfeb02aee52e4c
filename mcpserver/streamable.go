package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// post takes one message of streamable HTTP. In the eras until 2025-11-25 it
// belongs to a session, from 2026-07-28 on it stands for itself.
func (w *web) post(rw http.ResponseWriter, r *http.Request) {
	sh := w.shares.of(principal(r.Context()))
	defer sh.letGo()
	body, done := w.body(rw, r, sh)
	if body == nil {
		return
	}
	defer done()
	msg, problem := parse(body)
	if problem == nil && msg.ID != nil && msg.Method != "" { // else it may be a cancellation
		problem = sh.often() // admit says so too, and at more cost
	}
	version := r.Header.Get(mcp.HeaderProtocolVersion)
	switch {
	case problem != nil:
		w.refuse(rw, http.StatusBadRequest, msg.ID, problem)
	case mcp.IsModernProtocol(version) || mcp.IsModernProtocol(string(msg.Params.Meta.Version)):
		w.modern(rw, r, sh, msg, body)
	case msg.Method == string(mcp.MethodInitialize) && msg.ID != nil:
		w.initialize(rw, r, sh, msg, body)
	default:
		w.legacy(rw, r, msg, body)
	}
}

// body reads a request's body, for which there is room until done. It returns
// nil if it has refused it.
func (w *web) body(rw http.ResponseWriter, r *http.Request, sh *share) (body []byte, done func()) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		w.fail(rw, http.StatusUnsupportedMediaType, nil, mcp.INVALID_REQUEST, "content type %q: want application/json", r.Header.Get("Content-Type"))
		return nil, nil
	}
	size := r.ContentLength
	if size < 0 { // it does not say
		size = w.MaxBody
	}
	tooLarge := func() {
		w.fail(rw, http.StatusRequestEntityTooLarge, nil, mcp.INVALID_REQUEST, "message of more than %d MiB; write large files in parts, with append", w.MaxBody>>20)
	}
	if size > w.MaxBody {
		tooLarge()
		return nil, nil
	}
	if size > smallBody {
		if problem := sh.often(); problem != nil {
			w.refuse(rw, http.StatusTooManyRequests, nil, problem)
			return nil, nil
		}
	}
	if problem := sh.load(size); problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return nil, nil
	}
	rc := http.NewResponseController(rw)
	_ = rc.SetReadDeadline(time.Now().Add(readBody))
	body, err = io.ReadAll(http.MaxBytesReader(rw, r.Body, w.MaxBody))
	if err == nil { // else net/http must not wait for the rest for ever
		_ = rc.SetReadDeadline(time.Time{})
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		tooLarge()
	case err != nil:
		w.fail(rw, http.StatusBadRequest, nil, mcp.PARSE_ERROR, "read the message: %v", err)
	default:
		n := int64(len(body))
		sh.unload(size - n) // more than one that did not say has
		return body, func() { sh.unload(n) }
	}
	sh.unload(size)
	return nil, nil
}

// modern serves a message from 2026-07-28 on. Who closes the response cancels
// the request, and nobody else can.
func (w *web) modern(rw http.ResponseWriter, r *http.Request, sh *share, msg message, body []byte) {
	switch {
	case msg.Method == "":
		w.fail(rw, http.StatusBadRequest, msg.ID, mcp.INVALID_REQUEST, "from 2026-07-28 on the server asks nothing, so there is nothing to answer; repeat the request with inputResponses")
		return
	case msg.ID == nil:
		rw.WriteHeader(http.StatusAccepted)
		return
	}
	if problem := w.srv.headersAgree(r.Header, msg, body); problem != nil {
		w.refuse(rw, http.StatusBadRequest, msg.ID, problem)
		return
	}
	c := w.srv.connect(r.Context(), sh)
	defer c.close()
	if msg.Method == string(mcp.MethodSubscriptionsListen) { // it would not end by itself
		defer context.AfterFunc(w.ending, c.cancel)()
	}
	w.serve(rw, r, c, newReply(w, rw, r), msg, body)
}

// headersAgree holds what the headers of a request say against the request, as
// 2026-07-28 wants it, so that who routes by headers routes rightly.
func (s *Server) headersAgree(h http.Header, msg message, body []byte) *mcp.JSONRPCErrorDetails {
	version, said := h.Get(mcp.HeaderProtocolVersion), string(msg.Params.Meta.Version)
	mismatch := func(text string) *mcp.JSONRPCErrorDetails {
		return &mcp.JSONRPCErrorDetails{Code: mcp.HEADER_MISMATCH, Message: text}
	}
	switch {
	case said == "":
		return &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_PARAMS, Message: "missing or invalid _meta field " + mcp.MetaKeyProtocolVersion}
	case version != said:
		return mismatch("header " + mcp.HeaderProtocolVersion + " is " + strconv.Quote(version) + " and " + mcp.MetaKeyProtocolVersion + " is " + strconv.Quote(said))
	case !mcp.IsValidProtocolVersion(said):
		problem := mcp.UnsupportedProtocolVersionError{Version: said, Supported: mcp.ValidProtocolVersions}.JSONRPCError().Error
		return &problem
	case h.Get(mcp.HeaderLastEventID) != "":
		return mismatch("header " + mcp.HeaderLastEventID + ": streams can't be resumed; repeat the request with a new id")
	}
	var params struct {
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(body, &params); err != nil {
		return nil // parse has seen it
	}
	if err := mcp.ValidateStandardHeaders(h.Get, version, mcp.MCPMethod(msg.Method), params.Params); err != nil {
		return mismatch(err.Error())
	}
	tool := s.mcp.GetTool(msg.Params.Name)
	if msg.Method != string(mcp.MethodToolsCall) || tool == nil {
		return nil
	}
	lookup := func(name string) (string, bool) { v := h.Values(name); return h.Get(name), len(v) > 0 }
	if err := mcp.ValidateParamHeadersLookup(lookup, &tool.Tool, params.Params); err != nil {
		return mismatch(err.Error())
	}
	return nil
}

// initialize opens a session for who can.
func (w *web) initialize(rw http.ResponseWriter, r *http.Request, sh *share, msg message, body []byte) {
	c := w.srv.connect(context.WithoutCancel(r.Context()), sh)
	reply := newReply(w, rw, r)
	reply.decided = func(ok bool) {
		if ok {
			rw.Header().Set(mcp.HeaderSessionID, c.id)
			w.sessions.add(c, principal(r.Context()))
		} else {
			c.close()
		}
	}
	w.serve(rw, r, c, reply, msg, body)
}

// legacy serves a message of a session.
func (w *web) legacy(rw http.ResponseWriter, r *http.Request, msg message, body []byte) {
	s, done := w.session(rw, r)
	if s == nil {
		return
	}
	defer done()
	if msg.Method == "" || msg.ID == nil {
		s.note(msg)
		rw.WriteHeader(http.StatusAccepted)
		return
	}
	w.serve(rw, r, s.conn, newReply(w, rw, r), msg, body)
}

// session returns the session that a request names, until done. It returns nil
// if it has refused the request.
func (w *web) session(rw http.ResponseWriter, r *http.Request) (s *session, done func()) {
	version, id := r.Header.Get(mcp.HeaderProtocolVersion), r.Header.Get(mcp.HeaderSessionID)
	switch {
	case mcp.IsModernProtocol(version):
		rw.Header().Set("Allow", http.MethodPost)
		w.fail(rw, http.StatusMethodNotAllowed, nil, mcp.INVALID_REQUEST, "from 2026-07-28 on there are no sessions: POST each request, subscriptions/listen to listen")
	case version != "" && !mcp.IsValidProtocolVersion(version):
		w.fail(rw, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "header %s is %q: want one of %s", mcp.HeaderProtocolVersion, version, strings.Join(mcp.ValidProtocolVersions, ", "))
	case id == "":
		w.fail(rw, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "header %s is missing; begin with initialize", mcp.HeaderSessionID)
	default:
		if s, done = w.sessions.use(id, principal(r.Context())); s != nil && s.out == nil {
			return s, done
		}
		done()
		w.fail(rw, http.StatusNotFound, nil, mcp.INVALID_REQUEST, "there is no session %q, or not any more; begin anew with initialize", id)
	}
	return nil, nil
}

// serve serves a request whose answer is the response.
func (w *web) serve(rw http.ResponseWriter, r *http.Request, c *conn, p *reply, msg message, body []byte) {
	call := newCall(c, p.outlet(), msg, len(body))
	if problem := c.admit(call); problem != nil {
		call.cancel()
		p.decide(false)
		w.refuse(rw, http.StatusBadRequest, msg.ID, problem)
		return
	}
	p.broke = call.cancel
	c.run(r.Context(), call, body)
	if !p.begun && !p.answered { // it was cancelled: there is nothing to say
		p.begin()
	}
}

// listen is the stream of what belongs to no request, until 2025-11-25.
func (w *web) listen(rw http.ResponseWriter, r *http.Request) {
	s, done := w.session(rw, r)
	if s == nil {
		return
	}
	defer done()
	if problem := s.share.listen(); problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return
	}
	defer s.share.unlisten()
	s.show(r.Context())
	e := &events{w: rw, timeout: w.srv.writeTimeout()}
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for err := e.comment(); err == nil; {
		select {
		case n := <-s.notes:
			err = e.event("message", s.encode(n))
		case <-quiet.C:
			if !s.known(r.Context()) {
				return
			}
			err = e.comment()
		case <-s.ctx.Done():
			return
		case <-w.ending.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}

// endSession ends a session and its calls.
func (w *web) endSession(rw http.ResponseWriter, r *http.Request) {
	s, done := w.session(rw, r)
	if s == nil {
		return
	}
	done()
	w.sessions.end(s.id, s.owner)
	rw.WriteHeader(http.StatusNoContent)
}

// reply is the response to a request: one object or, if something is to be
// said before the answer, a stream of events.
type reply struct {
	events
	streams  bool          // the client takes events
	modern   bool          // the status says how it went
	decided  func(ok bool) // called once, before the answer is written
	broke    func()        // called when writing fails
	answered bool
}

func newReply(w *web, rw http.ResponseWriter, r *http.Request) *reply {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return &reply{
		events:  events{w: rw, timeout: w.srv.writeTimeout()},
		streams: accept == "" || strings.Contains(accept, "text/event-stream") || strings.Contains(accept, "*/*"),
		modern:  mcp.IsModernProtocol(r.Header.Get(mcp.HeaderProtocolVersion)),
	}
}

func (p *reply) outlet() *outlet {
	return &outlet{put: p.put, nothing: p.nothing, broke: func(error) { p.broke() }}
}

// decide says whether the request succeeded, before the answer is written.
func (p *reply) decide(ok bool) {
	if f := p.decided; f != nil {
		p.decided = nil
		f(ok)
	}
}

func (p *reply) put(line []byte, answer *response) error {
	if answer != nil {
		p.answered = true
		p.decide(answer.Error == nil)
		if !p.begun {
			return p.object(line, p.status(answer))
		}
	}
	if !p.streams {
		return nil
	}
	return p.event("message", line)
}

func (p *reply) nothing() error {
	if !p.streams {
		return nil
	}
	return p.comment()
}

// object makes the answer all of the response.
func (p *reply) object(line []byte, status int) error {
	p.w.Header().Set("Content-Type", "application/json")
	rc := http.NewResponseController(p.w)
	if err := rc.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
		return err
	}
	p.w.WriteHeader(status)
	_, err := p.w.Write(line)
	return err
}

// status is what the codes of errors are in HTTP from 2026-07-28 on.
func (p *reply) status(answer *response) int {
	if answer.Error == nil || !p.modern {
		return http.StatusOK
	}
	switch answer.Error.Code {
	case mcp.METHOD_NOT_FOUND:
		return http.StatusNotFound
	case mcp.HEADER_MISMATCH, mcp.MISSING_REQUIRED_CLIENT_CAPABILITY, mcp.UNSUPPORTED_PROTOCOL_VERSION,
		mcp.INVALID_REQUEST, mcp.INVALID_PARAMS, mcp.PARSE_ERROR:
		return http.StatusBadRequest
	}
	return http.StatusOK
}
