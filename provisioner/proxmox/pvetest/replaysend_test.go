package pvetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// send makes the request as it was recorded.
func (r *replay) send(e recorded) (status int, reason string, body any, err error) {
	payload, ctype := r.payload(e)
	req, err := http.NewRequestWithContext(r.t.Context(), e.Request.Method, r.url+"/api2/json"+r.ours(whole(e.Request.Path)), payload)
	if err != nil {
		return 0, "", nil, err
	}
	if e.Title == bodyOverLimit {
		req.ContentLength = 600 << 10
	}
	if payload != nil {
		req.Header.Set("Content-Type", ctype)
	}
	r.authorize(req, e)
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", nil, err
	}
	reason = strings.TrimPrefix(resp.Status, fmt.Sprint(resp.StatusCode, " "))
	var size int
	if n, _ := fmt.Sscanf(fmt.Sprint(e.Body), "(large, %d chars)", &size); n == 1 && len(data) >= 1<<20 {
		if spaces := size - len(data); spaces < 4 || spaces > 6 { // the recording has one after each : and ,
			err = fmt.Errorf("%d bytes of answer, want %d less those that the recording added", len(data), size)
		}
		return resp.StatusCode, reason, nil, err
	}
	if json.Unmarshal(data, &body) != nil {
		body = string(data)
	}
	return resp.StatusCode, reason, body, nil
}

// bodyOverLimit is the entry whose answer comes before its body, which it may
// cut off.
const bodyOverLimit = "form body > 512 KiB"

// payload is the body of the request and its type; nil is none.
func (r *replay) payload(e recorded) (body io.Reader, ctype string) {
	q := e.Request
	ctype = "application/x-www-form-urlencoded"
	if q.Method == http.MethodPost || q.Method == http.MethodPut {
		body = strings.NewReader(strings.Replace(encodeForm(q.Form), "password=%3Csecret%3E", "password="+url.QueryEscape(r.tick[0]), 1))
	}
	if form := tooLarge[e.Title]; form != nil {
		body = strings.NewReader(form().Encode())
	}
	if e.Title == bodyOverLimit {
		announced, end := io.Pipe()
		r.t.Cleanup(func() { _ = end.Close() })
		body = announced
	}
	if raw, ok := rawBodies[e.Title]; ok {
		body = strings.NewReader(raw)
	}
	if parts, ok := uploads[e.Title]; ok {
		body = strings.NewReader(multipartBody(parts))
	}
	if q.JSON != nil {
		ctype = "application/json"
		body = bytes.NewReader(encode(q.JSON))
	}
	if q.Type != "" {
		ctype = q.Type
	}
	return body, ctype
}

// encodeForm takes an object, or a list of pairs.
func encodeForm(form any) string {
	var out []string
	add := func(k string, v any) {
		out = append(out, url.QueryEscape(k)+"="+url.QueryEscape(fmt.Sprint(v)))
	}
	switch f := form.(type) {
	case map[string]any:
		for k, v := range f {
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, one := range list {
				add(k, one)
			}
		}
	case []any:
		for _, pair := range f {
			kv := pair.([]any)
			add(kv[0].(string), kv[1])
		}
	}
	return strings.Join(out, "&")
}

// ours puts our task and process ids in the place of the recorded ones.
func (r *replay) ours(path string) string {
	for theirs, mine := range r.upids {
		path = strings.ReplaceAll(path, theirs, mine)
		path = strings.ReplaceAll(path, url.QueryEscape(theirs), url.QueryEscape(mine))
	}
	if r.vnc != "" {
		path = strings.Replace(path, "vncticket=<secret>", "vncticket="+url.QueryEscape(r.vnc), 1)
	}
	for theirs, mine := range r.pids {
		if rest, ok := strings.CutSuffix(path, "exec-status?pid="+theirs); ok {
			return rest + "exec-status?pid=" + mine
		}
	}
	return path
}
