package mcpserver

import (
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestHello(t *testing.T) {
	for _, tt := range []struct {
		line  string
		there bool
		admin bool
		want  string // in the error
	}{
		{`{"jsonrpc":"2.0"}`, false, false, ""},
		{`agentlab`, false, false, ""},
		{`agentlab {}`, true, false, ""},
		{`agentlab {"admin":false}`, true, false, ""},
		{`agentlab {"admin":true}`, true, true, ""},
		{strings.TrimSuffix(Hello{Admin: true}.Line(), "\n"), true, true, ""},
		{`agentlab {"admin":true,"root":true}`, true, false, `unknown field "root"`},
		{`agentlab {"admin":1}`, true, false, "hello is not understood"},
		{`agentlab {"admin":true} {"admin":false}`, true, false, "followed by something else"},
		{`agentlab {"admin":true}x`, true, false, "followed by something else"},
		{`agentlab 1.2.3`, true, false, "not understood"},
		{`agentlab {"admin":` + strings.Repeat(" ", maxHello) + `true}`, true, false, "at most 65536"},
	} {
		h, there, err := parseHello([]byte(tt.line))
		ok := err == nil && tt.want == "" || err != nil && tt.want != "" && strings.Contains(err.Error(), tt.want)
		if there != tt.there || h.Admin != tt.admin || !ok {
			t.Errorf("%.60s: %+v, %v, %v; want admin %v, %q", tt.line, h, there, err, tt.admin, tt.want)
		}
	}
}

// Only what asks for it becomes the operator, and stays the user that it is.
func TestHelloApplies(t *testing.T) {
	ctx := withLocalPrincipal(t.Context(), 1000)
	for _, admin := range []bool{false, true} {
		ctx, err := Hello{Admin: admin}.apply(ctx)
		who, ok := sessions.PrincipalFrom(ctx)
		if err != nil || !ok || who.Name != "local:1000" || who.May(sessions.ScopeAdmin) != admin || !who.May(sessions.ScopeWrite) {
			t.Errorf("admin %v: %+v, %v", admin, who, ok)
		}
	}
	nobody, err := Hello{Admin: true}.apply(t.Context())
	if who, ok := sessions.PrincipalFrom(nobody); ok || err != nil {
		t.Errorf("nobody became %+v, %v", who, err)
	}
	if _, err := (Hello{HostDirs: []string{"/nonexistent"}}).apply(ctx); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// FuzzHello: what is not exactly a hello gives nothing.
func FuzzHello(f *testing.F) {
	f.Add([]byte(`agentlab {"admin":true}`))
	f.Add([]byte(`agentlab {"admin":true,"admin":false}`))
	f.Add([]byte("agentlab \x00"))
	f.Fuzz(func(t *testing.T, line []byte) {
		h, there, err := parseHello(line)
		if (!there || err != nil) && h.Admin {
			t.Fatalf("%q: %+v, %v, %v", line, h, there, err)
		}
		if there && !strings.HasPrefix(string(line), helloPrefix) {
			t.Fatalf("%q is taken for a hello", line)
		}
	})
}
