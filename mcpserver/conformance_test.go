//go:build e2e

package mcpserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// TestConformance runs the official suite on the stack that the product serves
// with, except for what is served: see newFixture. What the suite requires of
// each version must pass, each time.
func TestConformance(t *testing.T) {
	s := &Server{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	s.once.Do(func() {
		s.mcp, s.byName = newFixture(), map[string]tools.Tool{}
		for name := range s.mcp.ListTools() {
			s.byName[name] = tools.Tool{Scope: sessions.ScopeRead}
		}
	})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.ServeHTTPOn(ctx, ln, HTTP{}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		for run := range 3 {
			t.Run(fmt.Sprintf("%s/%d", version, run), func(t *testing.T) {
				conform(t, "--url", fmt.Sprintf("http://%s/mcp", ln.Addr()), "--requirements", version)
			})
		}
	}
}

// conform runs the suite's tests of a server.
func conform(t *testing.T, args ...string) {
	t.Helper()
	node, err := filepath.Abs("../internal/e2e/node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(filepath.Dir(filepath.Dir(node)), "@modelcontextprotocol/conformance/dist/index.js")
	cmd := exec.CommandContext(t.Context(), node, append([]string{suite, "server", "-o", t.TempDir()}, args...)...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("conformance: %v", err)
	}
}
