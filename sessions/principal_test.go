package sessions_test

import (
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestScopes(t *testing.T) {
	const read, write, admin = sessions.ScopeRead, sessions.ScopeWrite, sessions.ScopeAdmin
	for _, tt := range []struct {
		has  []sessions.Scope
		want map[sessions.Scope]bool
	}{
		{nil, map[sessions.Scope]bool{}},
		{[]sessions.Scope{""}, map[sessions.Scope]bool{}},
		{[]sessions.Scope{"sandbox"}, map[sessions.Scope]bool{}},
		{[]sessions.Scope{read}, map[sessions.Scope]bool{read: true}},
		{[]sessions.Scope{write}, map[sessions.Scope]bool{read: true, write: true}},
		{[]sessions.Scope{admin}, map[sessions.Scope]bool{read: true, write: true, admin: true}},
	} {
		p := sessions.Principal{Name: "x", Scopes: tt.has}
		for _, s := range []sessions.Scope{"", "other", read, write, admin} {
			if got := p.May(s); got != tt.want[s] {
				t.Errorf("%q may %q: %v", tt.has, s, got)
			}
		}
	}
}
