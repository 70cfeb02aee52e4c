package mcpserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// filesPath is where tickets are used.
const filesPath = "/files/"

// withLinks lets tools make URLs that lead here.
func (w *web) withLinks(r *http.Request) *http.Request {
	return r.WithContext(tools.WithLinker(r.Context(), func(t auth.Ticket) (string, error) {
		text, err := w.srv.tickets.Sign(t)
		return w.base(r) + filesPath + text, err
	}))
}

// file moves the file that the URL's ticket is for. The ticket is all that is
// needed: who holds the URL acts for the principal that asked for it.
func (w *web) file(rw http.ResponseWriter, r *http.Request) {
	t, err := w.srv.tickets.Parse(r.PathValue("ticket"))
	if err != nil {
		w.srv.Log.Info("ticket refused", "from", r.RemoteAddr, "err", err)
		w.fail(rw, http.StatusForbidden, nil, mcp.INVALID_REQUEST, "this URL is not valid, or not any more; call upload_url or download_url for a new one")
		return
	}
	need := sessions.ScopeRead
	if t.Write {
		need = sessions.ScopeWrite
	}
	ctx := sessions.WithPrincipal(r.Context(), sessions.Principal{Name: t.Principal, Scopes: []sessions.Scope{need}})
	if err := w.srv.allow(ctx, r.Method+" "+filesPath, need); err != nil {
		w.fail(rw, http.StatusForbidden, nil, mcp.INVALID_REQUEST, "this URL is not valid any more")
		return
	}
	ctx, leave := w.srv.enter(ctx)
	defer leave()
	share := w.shares.of(t.Principal)
	defer share.letGo()
	if problem := share.enter(0); problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return
	}
	defer share.leave(0)
	r = r.WithContext(ctx)
	switch {
	case !t.Write && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		w.download(rw, r, t)
	case t.Write && r.Method == http.MethodPut:
		w.upload(rw, r, t)
	default:
		allowed := "GET, HEAD"
		if t.Write {
			allowed = "PUT"
		}
		rw.Header().Set("Allow", allowed)
		w.fail(rw, http.StatusMethodNotAllowed, nil, mcp.INVALID_REQUEST, "this URL is for %s", allowed)
	}
}

// download answers with the file, or the ranges of it that are asked for.
func (w *web) download(rw http.ResponseWriter, r *http.Request, t auth.Ticket) {
	err := w.srv.Files.Download(r.Context(), t, func(size int64, changed time.Time, content io.ReadSeeker) {
		h := rw.Header()
		// What a guest made must not act as a page of ours.
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename*=UTF-8''%s", percent(path.Base(t.Path))))
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "private, no-store")
		h.Set("ETag", fmt.Sprintf(`"%x-%x"`, changed.UnixNano(), size))
		http.ServeContent(&paced{rw, w.srv.writeTimeout()}, r, "", changed, content)
	})
	w.transferFailed(rw, err)
}

// paced is a response that a client may take any time to read, as long as it
// reads.
type paced struct {
	http.ResponseWriter
	patience time.Duration
}

// Write is part of io.Writer.
func (p *paced) Write(b []byte) (int, error) {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(p.patience)) // fails when closed, as Write then does
	return p.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// percent encodes a file name for a header (RFC 8187, section 3.2).
func percent(name string) string {
	var b []byte
	for _, c := range []byte(name) {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' || c == '_' {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	return string(b)
}

// uploaded is the answer to an upload.
type uploaded struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"` // that are there
	Done  bool   `json:"done"`
}

// upload writes the file, or with Content-Range a part of it: "bytes 0-99/250"
// is one, and "bytes */250" with no body asks how much is there. As long as
// that is not all, the answer is 308 with a Range that tells it.
func (w *web) upload(rw http.ResponseWriter, r *http.Request, t auth.Ticket) {
	part, length, err := contentRange(r.Header.Get("Content-Range"))
	switch {
	case err != nil:
		w.fail(rw, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "Content-Range: %v", err)
		return
	case part != nil && r.ContentLength != length:
		w.fail(rw, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "Content-Length is %d, and the range has %d bytes", r.ContentLength, length)
		return
	case r.ContentLength > tools.MaxTransfer || part != nil && part.Total > tools.MaxTransfer:
		w.transferFailed(rw, &http.MaxBytesError{Limit: tools.MaxTransfer})
		return
	}
	body := http.MaxBytesReader(rw, &patient{r.Body, rw, w.srv.writeTimeout()}, tools.MaxTransfer)
	res := uploaded{Path: t.Path}
	if part == nil {
		res.Bytes, err = w.srv.Files.Upload(r.Context(), t, body)
		res.Done = err == nil
	} else {
		res.Bytes, err = w.srv.Files.Append(r.Context(), t, *part, body)
		res.Done = err == nil && part.From >= 0 && res.Bytes >= part.Total
	}
	// The deadline of a request that came in time.
	_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(w.srv.writeTimeout()))
	status := http.StatusCreated
	if part != nil && !res.Done && res.Bytes > 0 {
		rw.Header().Set("Range", fmt.Sprintf("bytes=0-%d", res.Bytes-1))
	}
	switch {
	case errors.Is(err, tools.ErrGap):
		w.fail(rw, http.StatusConflict, nil, mcp.INVALID_REQUEST, "%d bytes are there, so the next part begins at %d", res.Bytes, res.Bytes)
		return
	case err != nil:
		w.transferFailed(rw, err)
		return
	case !res.Done:
		status = http.StatusPermanentRedirect // as uploads in parts have it, without a Location
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(res) // to a client that may be gone
}

// contentRange reads the header Content-Range (RFC 9110, section 14.4) of an
// upload, nil if there is none, and how long its body must be.
func contentRange(header string) (part *tools.Part, length int64, err error) {
	if header == "" {
		return nil, -1, nil
	}
	m := regexp.MustCompile(`^bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15})$`).FindStringSubmatch(header)
	if m == nil {
		return nil, 0, fmt.Errorf(`got %q, want "bytes FIRST-LAST/TOTAL" or "bytes */TOTAL"`, short(header))
	}
	number := func(text string) int64 { n, _ := strconv.ParseInt(text, 10, 64); return n } // the digits fit
	part = &tools.Part{From: -1, Total: number(m[3])}
	if m[1] == "" {
		return part, 0, nil
	}
	last := number(m[2])
	part.From = number(m[1])
	if last < part.From || last >= part.Total {
		return nil, 0, fmt.Errorf("got %q, want FIRST <= LAST < TOTAL", header)
	}
	return part, last - part.From + 1, nil
}

// patient is a body whose sender may take any time, as long as it sends.
type patient struct {
	io.ReadCloser
	rw       http.ResponseWriter
	patience time.Duration
}

// Read is part of io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	rc := http.NewResponseController(p.rw)
	_ = rc.SetReadDeadline(time.Now().Add(p.patience)) // fails when closed, as Read then does
	n, err := p.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) { // what is done with it may take longer
		_ = rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// transferFailed answers with what went wrong, unless there is an answer.
func (w *web) transferFailed(rw http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return
	case errors.As(err, &large):
		w.fail(rw, http.StatusRequestEntityTooLarge, nil, mcp.INVALID_REQUEST, "a file may have %d MiB", large.Limit>>20)
		return
	}
	kind, text := tools.Explain(err)
	status, ok := map[sessions.Kind]int{
		sessions.Invalid: http.StatusBadRequest, sessions.NotFound: http.StatusNotFound, sessions.Conflict: http.StatusConflict,
		sessions.Exhausted: http.StatusInsufficientStorage, sessions.Unavailable: http.StatusServiceUnavailable,
	}[kind]
	if !ok {
		status, text = http.StatusInternalServerError, fmt.Sprintf("internal error (ref %s)", w.srv.internal(err))
	}
	w.fail(rw, status, nil, mcp.INVALID_REQUEST, "%s", text)
}
