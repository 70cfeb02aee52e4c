package serve

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/keep"
	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// What was asked for before another was quicker is refused, and what fails leaves
// the keys as they were. No machine is renamed here: it would be this one.
func TestRekeyKeepsKeys(t *testing.T) {
	host := &proc.Host{Rename: func(string) error { return errors.New("no new name") }}
	secret := make([]byte, ed25519.SeedSize)
	seed := guest.Seed{HostKey: secret, ClientKey: make([]byte, ed25519.PublicKeySize)}
	s, err := New(t.Context(), seed, host, &keep.Table{Host: host, Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := s.current.Load()
	second, err := newGeneration(t.Context(), 1, keys{host: secret, client: seed.ClientKey})
	if err != nil {
		t.Fatal(err)
	}
	s.switchTo(second, handshakeTime)
	for want, from := range map[string]*generation{"earlier generation": first, "no new name": second} {
		_, next, err := s.rekey(from, guest.Rekey{Generation: 2, HostKey: secret, ClientKey: seed.ClientKey, Session: wire.MakeSession().Payload()})
		if err == nil || next != nil || !strings.Contains(err.Error(), want) || s.current.Load() != second {
			t.Errorf("error %v, want one with %q, and the keys as they were", err, want)
		}
	}
}

// A re-key that brings no session, which nobody could go on with, changes nothing,
// and no more does one of a session that is none.
func TestRekeyNeedsASession(t *testing.T) {
	renamed := false
	host := &proc.Host{Rename: func(string) error { renamed = true; return errors.New("renamed") }}
	seed := guest.Seed{HostKey: make([]byte, ed25519.SeedSize), ClientKey: make([]byte, ed25519.PublicKeySize)}
	s, err := New(t.Context(), seed, host, &keep.Table{Host: host, Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	was := s.current.Load()
	for want, session := range map[string][]byte{"no session": nil, "session of 0 bytes": {}, "session of 3 bytes": []byte("abc")} {
		_, next, err := s.rekey(was, guest.Rekey{Generation: 1, HostKey: seed.HostKey, ClientKey: seed.ClientKey, Session: session})
		if err == nil || next != nil || !strings.Contains(err.Error(), want) || s.current.Load() != was || renamed {
			t.Errorf("error %v, want one with %q, and all as it was; renamed: %v", err, want, renamed)
		}
	}
}
