package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// filesPath is where tickets are used.
const filesPath = "/files/"

const notAnyMore = "this URL is not valid any more"

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
		w.srv.Watch.AuthFailure("ticket")
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
		w.srv.Watch.AuthFailure("ticket")
		w.fail(rw, http.StatusForbidden, nil, mcp.INVALID_REQUEST, "%s", notAnyMore)
		return
	}
	ctx, leave := w.srv.enter(ctx)
	defer leave()
	share := w.shares.of(t.Principal)
	defer share.letGo()
	problem := share.turn(ctx)
	if problem == nil {
		problem = share.enter(0)
	}
	if problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return
	}
	defer share.leave(0)
	rw.Header().Del("Connection")
	tr := w.srv.transfer(ctx, rw, t)
	defer tr.over()
	r = r.WithContext(ctx)
	switch {
	case !t.Write && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		w.download(tr, r)
	case t.Write && r.Method == http.MethodPut:
		w.upload(tr, r)
	default:
		allowed := "GET, HEAD"
		if t.Write {
			allowed = "PUT"
		}
		rw.Header().Set("Allow", allowed)
		w.fail(tr, http.StatusMethodNotAllowed, nil, mcp.INVALID_REQUEST, "this URL is for %s", allowed)
	}
}

// maxRanges is how many ranges of a file can be asked for at once; each is
// opened by itself. Who asks for more gets the whole file (RFC 9110, section 14.2).
const maxRanges = 16

// download answers with the file, or the ranges of it that are asked for.
func (w *web) download(tr *transfer, r *http.Request) {
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
	err := w.srv.Files.Download(r.Context(), tr.ticket, func(ctx context.Context, size int64, changed time.Time, content io.ReadSeeker) error {
		defer tr.until(ctx)()
		h := tr.Header()
		// What a guest made must not act as a page of ours.
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename*=UTF-8''%s", percent(path.Base(tr.ticket.Path))))
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "private, no-store")
		h.Set("ETag", fmt.Sprintf(`"%x-%x"`, changed.UnixNano(), size))
		http.ServeContent(tr, r, "", changed, content)
		return tr.broken()
	})
	w.transferFailed(tr, err)
}

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
func (w *web) upload(tr *transfer, r *http.Request) {
	part, err := contentRange(r.Header.Get("Content-Range"))
	switch {
	case err != nil:
		w.fail(tr, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "Content-Range: %v", err)
		return
	case part != nil && r.ContentLength < 0:
		w.fail(tr, http.StatusLengthRequired, nil, mcp.INVALID_REQUEST, "a part needs a Content-Length, which is %d here", part.Length)
		return
	case part != nil && r.ContentLength != part.Length:
		w.fail(tr, http.StatusBadRequest, nil, mcp.INVALID_REQUEST, "Content-Length is %d, and the range has %d bytes", r.ContentLength, part.Length)
		return
	case r.ContentLength > tools.MaxTransfer || part != nil && part.Total > tools.MaxTransfer:
		w.transferFailed(tr, &http.MaxBytesError{Limit: tools.MaxTransfer})
		return
	}
	limited := http.MaxBytesReader(tr.ResponseWriter, r.Body, tools.MaxTransfer)
	open := func(ctx context.Context) io.Reader { return tr.body(ctx, limited) }
	res := uploaded{Path: tr.ticket.Path}
	if part == nil {
		res.Bytes, err = w.srv.Files.Upload(r.Context(), tr.ticket, open)
		res.Done = err == nil
	} else {
		res.Bytes, res.Done, err = w.srv.Files.Append(r.Context(), tr.ticket, *part, open)
	}
	if part != nil && !res.Done && res.Bytes > 0 {
		tr.Header().Set("Range", fmt.Sprintf("bytes=0-%d", res.Bytes-1))
	}
	switch {
	case errors.Is(err, tools.ErrGap):
		w.fail(tr, http.StatusConflict, nil, mcp.INVALID_REQUEST, "%d bytes are there, so the next part begins at %d", res.Bytes, res.Bytes)
		return
	case err != nil:
		w.transferFailed(tr, err)
		return
	}
	tr.Header().Set("Content-Type", "application/json")
	if res.Done {
		tr.WriteHeader(http.StatusCreated)
	} else {
		tr.WriteHeader(http.StatusPermanentRedirect) // as uploads in parts have it, without a Location
	}
	_ = json.NewEncoder(tr).Encode(res) // to a client that may be gone
}

// partForm is the header Content-Range (RFC 9110, section 14.4) of an upload.
var partForm = regexp.MustCompile(`^bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15})$`)

// contentRange reads the header of an upload; there is no part if it is empty.
func contentRange(header string) (*tools.Part, error) {
	if header == "" {
		return nil, nil
	}
	m := partForm.FindStringSubmatch(header)
	if m == nil {
		return nil, fmt.Errorf(`got %q, want "bytes FIRST-LAST/TOTAL" or "bytes */TOTAL"`, short(header))
	}
	number := func(text string) int64 { n, _ := strconv.ParseInt(text, 10, 64); return n } // the digits fit
	part := &tools.Part{From: -1, Total: number(m[3])}
	if m[1] == "" {
		return part, nil
	}
	last := number(m[2])
	part.From = number(m[1])
	if last < part.From || last >= part.Total {
		return nil, fmt.Errorf("got %q, want FIRST <= LAST < TOTAL", header)
	}
	part.Length = last - part.From + 1
	return part, nil
}

// transferFailed answers with what went wrong, unless an answer has begun.
func (w *web) transferFailed(tr *transfer, err error) {
	if err == nil {
		return
	}
	kind, text := tools.Explain(err)
	status := map[sessions.Kind]int{
		sessions.Invalid: http.StatusBadRequest, sessions.NotFound: http.StatusNotFound, sessions.Conflict: http.StatusConflict,
		sessions.Exhausted: http.StatusInsufficientStorage, sessions.Unavailable: http.StatusServiceUnavailable,
	}[kind]
	var large *http.MaxBytesError
	switch {
	case errors.Is(context.Cause(tr.ctx), auth.ErrUnauthenticated):
		status, text, tr.outcome = http.StatusForbidden, notAnyMore, "revoked"
	case errors.As(err, &large):
		status, text, kind = http.StatusRequestEntityTooLarge, fmt.Sprintf("a file may have %d MiB", large.Limit>>20), sessions.Invalid
	case status == 0 && tr.broken() != nil, errors.Is(err, context.Canceled):
		status, text, tr.outcome = http.StatusRequestTimeout, "the body did not come to its end; ask what is there with Content-Range: bytes */TOTAL", "interrupted"
	case status == 0:
		status, text = http.StatusInternalServerError, fmt.Sprintf("internal error (ref %s)", w.srv.internal(err))
	}
	if tr.outcome == "" {
		tr.outcome = kind.String()
	}
	if tr.status == 0 {
		w.fail(tr, status, nil, mcp.INVALID_REQUEST, "%s", text)
	}
}
