package serve

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// keys are what the channel is opened with.
type keys struct {
	host    []byte // ed25519 seed
	client  []byte // ed25519 public key
	session []byte // of package wire, good once; nil is none
}

// generation is the time from one set of keys to the next. All connections and
// sessions belong to one and end with it, also those that are only just being
// made.
type generation struct {
	n      int // as guest.Rekey counts them
	keys   keys
	config *ssh.ServerConfig
	first  *wire.Session // nil is none
	ctx    context.Context
	end    context.CancelFunc

	mu       sync.Mutex
	sessions map[wire.ID]*hostSession
}

// newGeneration returns one that ends with ctx at the latest.
func newGeneration(ctx context.Context, n int, k keys) (*generation, error) {
	if len(k.host) != ed25519.SeedSize || len(k.client) != ed25519.PublicKeySize {
		return nil, errors.New("keys have the wrong length")
	}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(k.host))
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	client, err := ssh.NewPublicKey(ed25519.PublicKey(k.client))
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	g := &generation{n: n, keys: k, config: sshConfig(signer, client), sessions: map[wire.ID]*hostSession{}}
	if k.session != nil {
		if g.first, err = wire.ParseSession(k.session); err != nil {
			return nil, err
		}
	}
	g.ctx, g.end = context.WithCancel(ctx)
	return g, nil
}

// sshConfig is that of a server with one host key and one client.
func sshConfig(host ssh.Signer, client ssh.PublicKey) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherChaCha20Poly1305},
		},
		MaxAuthTries:  maxAuthTries,
		ServerVersion: wire.Version,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), client.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(host)
	return config
}

// has reports whether the keys are those of g.
func (g *generation) has(k keys) bool {
	return bytes.Equal(g.keys.host, k.host) && bytes.Equal(g.keys.client, k.client)
}

// addSession lets a host that has authenticated itself use a session, if it
// begins to within a time.
func (s *Server) addSession(g *generation, session *wire.Session, within time.Duration) *hostSession {
	h := &hostSession{Server: s, Session: session, generation: g}
	h.ctx, h.cancel = context.WithCancel(g.ctx)
	h.unused = time.AfterFunc(within, h.finish)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions[h.ID] = h
	return h
}

func (g *generation) session(id wire.ID) *hostSession {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[id]
}
