package pvetest

import (
	"cmp"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"syscall"
)

// urlMetadata asks what is at a URL, before it is downloaded (PVE/API2/Nodes.pm
// query_url_metadata).
func urlMetadata(c *call) (any, error) {
	req, err := http.NewRequestWithContext(c.ctx(), http.MethodHead, c.p.str("url"), nil)
	if err != nil {
		return nil, die("invalid server response: '500 %v'", err)
	}
	var resp *http.Response
	c.s.unlocked(func() { resp, err = c.web().Do(req) }) //nolint:bodyclose // it is, below
	if err != nil {
		return nil, die("invalid server response: '500 Can't connect to %s (%s)'", hostPort(req.URL), connectError(err))
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, die("invalid server response: '%s'", resp.Status)
	}
	return metadata(req.URL, resp), nil
}

func metadata(u *url.URL, resp *http.Response) map[string]any {
	out := map[string]any{}
	_, disposition, _ := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
	if name := cmp.Or(disposition["filename"], path.Base(u.Path)); name != "/" && name != "." {
		out["filename"] = name
	}
	if resp.ContentLength >= 0 {
		out["size"] = resp.ContentLength
	}
	if typ, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); typ != "" {
		out["mimetype"] = typ
	}
	return out
}

// connectError says it as Perl's LWP does.
func connectError(err error) string {
	var dns *net.DNSError
	var no syscall.Errno
	switch {
	case errors.As(err, &dns):
		return "Temporary failure in name resolution"
	case errors.As(err, &no):
		return capitalized(no.Error())
	}
	return fmt.Sprint(err)
}
