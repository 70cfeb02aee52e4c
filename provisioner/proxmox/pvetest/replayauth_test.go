package pvetest

import (
	"net/http"
	"net/url"
	"strings"
)

// badTokens are the entries that were made with a wrong secret, which was
// masked like the right ones.
var badTokens = map[string]bool{
	"token: wrong secret": true, "token: malformed (no =secret)": true, "bad token": true,
	"wrong token on POST (no CSRF needed with tokens)": true, "token: disabled/expired user is like a bad token": true,
	"ticket: POST with a wrong CSRF token": true, "both: valid token + broken cookie": true, "expired/broken ticket": true,
}

// authorize logs in as the recorded client did.
func (r *replay) authorize(req *http.Request, e recorded) {
	switch {
	case e.Request.Ticket:
		ticket, csrf := r.tick[0], r.tick[1]
		if badTokens[e.Title] {
			ticket, csrf = ticket+"x", "wrong"
		}
		if e.Request.CSRF {
			ticket = r.tick[0]
			req.Header.Set("CSRFPreventionToken", csrf)
		}
		if e.Request.Auth != "" {
			req.Header.Set("Authorization", "PVEAPIToken=root@pam!mcp="+r.token["root@pam!mcp"])
		}
		req.AddCookie(&http.Cookie{Name: "PVEAuthCookie", Value: url.QueryEscape(ticket)})
	case strings.HasPrefix(e.Request.Auth, "PVEAuthCookie="):
		req.Header.Set("Authorization", "PVEAuthCookie="+url.QueryEscape(r.tick[0]))
	case badTokens[e.Title]:
		req.Header.Set("Authorization", "PVEAPIToken=root@pam!mcp=00000000-0000-0000-0000-000000000000")
	case e.Request.Auth != "":
		auth := strings.Replace(e.Request.Auth, "01989ba6-e599-4a34-b621-99208924ed4b", r.token["root@pam!mcp"], 1)
		if id, _, ok := strings.Cut(strings.TrimPrefix(auth, "PVEAPIToken="), "="); ok && r.token[id] != "" {
			auth = strings.Replace(auth, "<secret>", r.token[id], 1)
		}
		req.Header.Set("Authorization", auth)
	case strings.Contains(e.Request.Path, "exec-status"): // recorded without its header
		req.Header.Set("Authorization", "PVEAPIToken=root@pam!mcp="+r.token["root@pam!mcp"])
	}
}
