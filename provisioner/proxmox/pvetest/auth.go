package pvetest

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// identity is who asks: USER@REALM by ticket or in pvesh, USER@REALM!NAME by
// token. A token of root@pam is not root.
type identity struct{ name string }

func (i identity) root() bool { return i.name == "root@pam" }

func (i identity) user() string { user, _, _ := cutToken(i.name); return user }

// cutToken splits USER@REALM!NAME.
func cutToken(id string) (user, token string, ok bool) {
	return strings.Cut(id, "!")
}

// authenticate is HTTPServer.pm auth_handler. A ticket, even a broken one, wins
// over a token. What is wrong with a token is never said.
func (s *Server) authenticate(r *http.Request, segs []string) (identity, *apiError) {
	if strings.Join(segs, "/") == "access/ticket" {
		return identity{}, nil
	}
	auth := r.Header.Get("Authorization")
	ticket, isTicket := strings.CutPrefix(auth, "PVEAuthCookie=")
	if cookie, err := r.Cookie("PVEAuthCookie"); err == nil {
		ticket, isTicket = cookie.Value, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if isTicket {
		return s.byTicket(r, ticket)
	}
	cred, ok := strings.CutPrefix(auth, "PVEAPIToken")
	if !ok || cred == "" || cred[0] != '=' && cred[0] != ' ' {
		return identity{}, unauthorized("No ticket")
	}
	id, secret, ok := strings.Cut(cred[1:], "=")
	t := s.c.Tokens[id]
	if !ok || t == nil || subtle.ConstantTimeCompare([]byte(secret), []byte(t.Secret)) == 0 || expired(t.Expire) {
		return identity{}, unauthorized("Authentication failed!")
	}
	user, _, _ := cutToken(id)
	if u := s.c.Users[user]; u == nil || u.Disabled || expired(u.Expire) {
		return identity{}, unauthorized("Authentication failed!")
	}
	return identity{id}, nil
}

func expired(at int64) bool { return at != 0 && at <= time.Now().Unix() }

func unauthorized(msg string) *apiError {
	return &apiError{status: 401, message: msg, bare: true}
}

func (s *Server) byTicket(r *http.Request, ticket string) (identity, *apiError) {
	if dec, err := url.QueryUnescape(ticket); err == nil && strings.Contains(ticket, "%") {
		ticket = dec
	}
	user, ok := s.c.tickets[ticket]
	if !ok {
		return identity{}, unauthorized("Authentication failed!")
	}
	if r.Method != http.MethodGet && r.Header.Get("CSRFPreventionToken") != csrfToken(ticket) {
		return identity{}, unauthorized("Permission denied - invalid csrf token")
	}
	return identity{user}, nil
}

// csrfToken is bound to the ticket, as PVE's is to the user and the time.
func csrfToken(ticket string) string {
	parts := strings.Split(ticket, ":")
	return parts[2] + ":" + base64.RawStdEncoding.EncodeToString([]byte(ticket))[:43]
}

// login is POST /access/ticket.
func login(c *call) (any, error) {
	name := c.p.str("username")
	if c.p.has("realm") && !strings.Contains(name, "@") {
		name += "@" + c.p.str("realm")
	}
	u := c.s.c.Users[name]
	pass := c.p.str("password")
	renewed := c.s.c.tickets[pass] == name && name != ""
	if u == nil || u.Disabled || !renewed && (u.Password == "" || u.Password != pass) {
		return nil, &apiError{status: 401, message: "authentication failure"}
	}
	ticket := fmt.Sprintf("PVE:%s:%08X::%s", name, time.Now().Unix(), base64.StdEncoding.EncodeToString([]byte(newUUID()+newUUID())))
	c.s.c.tickets[ticket] = name
	return map[string]any{
		"username": name, "ticket": ticket, "CSRFPreventionToken": csrfToken(ticket), "cap": map[string]any{},
	}, nil
}
