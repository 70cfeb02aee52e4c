package provisioner

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Papers are what a machine says about itself: enough to know that it is ours,
// whose it is and when it ends, and to rebuild its record if the store is lost.
type Papers struct {
	Instance string    `json:"instance"`       // id of the installation that made it
	Sandbox  string    `json:"sandbox"`        // id of its sandbox
	Owner    string    `json:"owner"`          // principal
	Name     string    `json:"name,omitempty"` // the owner's name for it
	Profile  string    `json:"profile"`
	Created  time.Time `json:"created"`
	End      time.Time `json:"end"`     // when it is to be destroyed
	MaxEnd   time.Time `json:"max_end"` // End never moves past it
	MemoryMB int       `json:"memory_mb"`
	Keys     int       `json:"keys,omitempty"`    // generation of its channel's keys: how often it was re-keyed
	Stopped  bool      `json:"stopped,omitempty"` // if it is off, that is since its owner wants it so, and not half made
}

// HandOver returns ErrInvalid if a machine with papers p can't be handed over by
// those of next: they must be of the same sandbox and of the next generation of
// keys, or the same again for the same owner. Whose record is older than the
// machine, as after a restored backup, thus gets nothing of another's.
func (p Papers) HandOver(next Papers) error {
	switch {
	case next.Sandbox != p.Sandbox || next.Instance != p.Instance:
		return fmt.Errorf("papers are of %s of %s: %w", next.Sandbox, next.Instance, ErrInvalid)
	case next.Keys < 1 || next.Keys != p.Keys && next.Keys != p.Keys+1:
		return fmt.Errorf("papers are of generation %d of the keys, the machine's of %d: it must be the next, or the same: %w",
			next.Keys, p.Keys, ErrInvalid)
	case next.Keys == p.Keys && next.Owner != p.Owner:
		return fmt.Errorf("generation %d of the keys is another owner's: %w", p.Keys, ErrInvalid)
	}
	return nil
}

// Key is the secret of an installation. It signs papers, and the keys of the
// channels are derived from it, so that nothing but it needs to be kept.
type Key struct{ redact.Bytes }

// KeySize is the length of a Key in bytes.
const KeySize = 32

// NewKey returns the key made of these KeySize bytes.
func NewKey(secret []byte) (Key, error) {
	if len(secret) != KeySize {
		return Key{}, fmt.Errorf("key has %d bytes, want %d", len(secret), KeySize)
	}
	return Key{bytes.Clone(secret)}, nil
}

// Seal returns the papers as one line of text with an HMAC-SHA-256 under k.
func (k Key) Seal(p Papers) (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("seal papers of %s: %w", p.Sandbox, err)
	}
	mac, err := k.mac(text)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(mac) + " " + string(text), nil
}

// Open returns the papers that Seal made. Any other text gives ErrNotOurs.
func (k Key) Open(sealed string) (Papers, error) {
	var p Papers
	const hexLen = sha256.Size * 2
	if len(sealed) <= hexLen || sealed[hexLen] != ' ' {
		return p, fmt.Errorf("papers are malformed: %w", ErrNotOurs)
	}
	got, err := hex.DecodeString(sealed[:hexLen])
	if err != nil {
		return p, fmt.Errorf("papers are malformed: %w", ErrNotOurs)
	}
	text := []byte(sealed[hexLen+1:])
	want, err := k.mac(text)
	if err != nil {
		return p, err
	}
	if !hmac.Equal(got, want) {
		return p, fmt.Errorf("papers are not signed by this installation: %w", ErrNotOurs)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("papers are malformed (%v): %w", err, ErrNotOurs)
	}
	return p, nil
}

// OfGeneration returns the purpose of a secret of a machine that was re-keyed n
// times, as Papers.Keys counts: that before if n is 0. It ends with the sandbox's
// id, which has no space in it.
func OfGeneration(purpose string, n int) string {
	if n == 0 {
		return purpose
	}
	return fmt.Sprintf("%s %d", purpose, n)
}

// Derive returns 32 secret bytes for one purpose, the same for the same
// purpose: HKDF-SHA-256 (RFC 5869).
func (k Key) Derive(purpose string) ([]byte, error) {
	b, err := hkdf.Key(sha256.New, k.Reveal(), nil, "agentlab "+purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return b, nil
}

// MachineID returns the machine-id(5) of a sandbox's machine that was re-keyed n
// times: 32 hexadecimal digits, which no other has.
func (k Key) MachineID(sandbox string, n int) (string, error) {
	b, err := k.Derive(OfGeneration("machine-id "+sandbox, n))
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:16]), nil
}

func (k Key) mac(text []byte) ([]byte, error) {
	key, err := k.Derive("papers")
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil), nil
}
