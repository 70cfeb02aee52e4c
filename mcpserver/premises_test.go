package mcpserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
	"github.com/agentlab-mcp/agentlab/tools"
)

// premises are a server with all its tools, on a real store with the sandboxes
// and the tokens of some principals. Its machines answer nobody.
type premises struct {
	t      *testing.T
	server *mcpserver.Server
	db     *store.DB
	tokens *auth.Tokens
	logins map[string]func() (sessions.Principal, error) // by the text of a token
	now    time.Time
	ids    int
	last   string // token made, as text
	dir    string // of the user's, that all allow
}

// silent is a backend whose machines can't be reached.
type silent struct{ provisioner.Provisioner }

func (silent) Create(context.Context, provisioner.Spec) (provisioner.Machine, error) {
	return provisioner.Machine{}, provisioner.ErrUnavailable
}
func (silent) List(context.Context) ([]provisioner.Machine, error) { return nil, nil }
func (silent) Destroy(context.Context, provisioner.Ref) error      { return nil }
func (silent) Relabel(context.Context, provisioner.Ref, provisioner.Papers) error {
	return nil
}
func (silent) Dial(context.Context, provisioner.Ref) (guest.Conn, error) {
	return nil, guest.ErrUnreachable
}

func newPremises(t *testing.T) *premises {
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"), log)
	if err != nil {
		t.Fatal(err)
	}
	p := &premises{t: t, db: db, now: time.Now(), dir: t.TempDir(), logins: map[string]func() (sessions.Principal, error){}}
	m := &sessions.Manager{
		Store: db, Backends: map[string]provisioner.Provisioner{"local": silent{}},
		Profiles: sessions.BuiltinProfiles(), Instance: "test", Log: log, ReconcileEvery: time.Hour,
	}
	p.tokens = &auth.Tokens{Store: db, Log: log, Now: func() time.Time { return p.now }}
	open := func(context.Context) (*sessions.Manager, error) { return m, nil }
	p.server = &mcpserver.Server{Version: "1", Log: log, Tools: append(tools.All(open, m.Profiles, log),
		tools.Admin(open, func(context.Context) (*auth.Tokens, error) { return p.tokens, nil }, log)...)}
	p.server.Files = &tools.Files{Open: open}
	p.server.Resources, p.server.Prompts, p.server.Completer = tools.AllResources(open, log), tools.AllPrompts(log), tools.NewCompleter(open, log)
	p.tokens.Revoked = p.server.End
	t.Cleanup(func() { db.Close() })
	return p
}

// token makes a token and returns what authenticates by it.
func (p *premises) token(name string, ttl time.Duration, scopes ...sessions.Scope) (auth.Token, func() (sessions.Principal, error)) {
	p.t.Helper()
	req := auth.Request{Name: name, TTL: ttl}
	for _, s := range scopes {
		req.Scopes = append(req.Scopes, string(s))
	}
	if len(scopes) == 0 {
		req.Scopes = []string{string(sessions.ScopeRead)}
	}
	text, tok, err := p.tokens.Create(p.t.Context(), req)
	if err != nil {
		p.t.Fatal(err)
	}
	login := func() (sessions.Principal, error) {
		who, err := p.tokens.Authenticate(p.t.Context(), text)
		if len(scopes) == 0 { // none can be made; an identity provider may give none
			who.Scopes = nil
		}
		return who, err
	}
	p.last = text.Reveal()
	p.logins[p.last] = login
	return tok, login
}

// Authenticate makes the premises an [mcpserver.Authenticator].
func (p *premises) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if login := p.logins[token]; login != nil {
		return login()
	}
	return sessions.Principal{}, mcpserver.ErrUnauthenticated
}

// sandbox records a new sandbox that is READY.
func (p *premises) sandbox(owner string) string {
	p.t.Helper()
	p.ids++
	id := fmt.Sprintf("sb-%020d", p.ids)
	now := time.Now().UTC()
	sb := sessions.Sandbox{
		ID: id, Owner: owner, Profile: sessions.BuiltinProfiles()[0].Name, Backend: "local", State: sessions.Ready, Handle: "h",
		Created: now, Ready: now, End: now.Add(time.Hour), MaxEnd: now.Add(2 * time.Hour), Cores: 1, MemoryMB: 1, DiskMB: 1, Network: "none",
	}
	if _, _, err := p.db.Add(p.t.Context(), sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
		p.t.Fatal(err)
	}
	return id
}

// ask asks, as one who may have all that is offered, as whoever the token is of, as a transport does: authenticate, then
// serve. What is refused at the door is "unauthenticated".
func (p *premises) ask(login func() (sessions.Principal, error), method, params string) string {
	p.t.Helper()
	who, err := login()
	if errors.Is(err, auth.ErrUnauthenticated) {
		return "unauthenticated"
	}
	if err != nil {
		p.t.Fatal(err)
	}
	line := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, method, params)
	dirs, err := hosttree.New([]string{p.dir})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx := tools.WithLinker(tools.WithHostDirs(p.t.Context(), dirs), func(auth.Ticket) (string, error) { return "url", nil })
	return string(mcpserver.Ask(sessions.WithPrincipal(ctx, who), p.server, line))
}
