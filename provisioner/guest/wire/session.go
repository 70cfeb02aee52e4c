package wire

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
)

// NewSession is the SSH global request that asks for a session. The reply's
// payload is a [Session].
const NewSession = "session@agentlab"

// magic is how a connection of a session begins, where another would say "SSH-".
const magic = "AgentLab"

// Sizes of what is said when a connection joins a session.
const (
	idSize     = 16
	secretSize = 32
	nonceSize  = 16
	proofSize  = sha256.Size
)

// errProof: the far side does not know the session's secret.
var errProof = errors.New("the far side does not belong to the session")

// ID names a session. It is no secret.
type ID [idSize]byte

// Session is what two sides share that have shown each other their SSH keys.
// Any number of connections may join it, for each of which both sides prove
// that they know the secret. It travels in a guest.Seed, in a guest.Rekey or inside
// SSH.
type Session struct {
	ID     ID
	Secret [secretSize]byte
}

// MakeSession returns a new session.
func MakeSession() *Session {
	s := new(Session)
	_, _ = rand.Read(s.ID[:]) // never fails
	_, _ = rand.Read(s.Secret[:])
	return s
}

// Payload returns s as the payload of a reply.
func (s *Session) Payload() []byte { return append(s.ID[:len(s.ID):len(s.ID)], s.Secret[:]...) }

// ParseSession is the inverse of Payload.
func ParseSession(payload []byte) (*Session, error) {
	s := new(Session)
	if len(payload) != len(s.ID)+len(s.Secret) {
		return nil, fmt.Errorf("session of %d bytes: %w", len(payload), errFrame)
	}
	copy(s.ID[:], payload)
	copy(s.Secret[:], payload[len(s.ID):])
	return s, nil
}

// proof is what only who knows the secret can say, once.
func (s *Session) proof(who string, nonces []byte) []byte {
	mac := hmac.New(sha256.New, s.Secret[:])
	mac.Write([]byte(who))
	mac.Write(nonces)
	return mac.Sum(nil)
}

// Join makes nc a connection of s, from the host's side, and sends first as
// soon as the guest has proved itself, with our own proof.
func (s *Session) Join(nc net.Conn, first []byte) error {
	hello := append([]byte(magic), s.ID[:]...)
	nonces := make([]byte, 2*nonceSize)
	_, _ = rand.Read(nonces[:nonceSize]) // never fails
	if _, err := nc.Write(append(hello, nonces[:nonceSize]...)); err != nil {
		return err
	}
	var answer [nonceSize + proofSize]byte
	if _, err := io.ReadFull(nc, answer[:]); err != nil {
		return err
	}
	copy(nonces[nonceSize:], answer[:])
	if !hmac.Equal(answer[nonceSize:], s.proof("guest", nonces)) {
		return errProof
	}
	_, err := nc.Write(append(s.proof("host", nonces), first...))
	return err
}

// Accept is the guest's side of Join. Its caller has seen that nc [Joins].
func Accept(nc net.Conn, find func(ID) *Session) (*Session, error) {
	var hello [idSize + 2*nonceSize]byte // what the host says, and a nonce of our own
	id, nonces := hello[:idSize], hello[idSize:]
	if _, err := io.ReadFull(nc, hello[:idSize+nonceSize]); err != nil {
		return nil, err
	}
	s := find(ID(id))
	if s == nil {
		return nil, errProof
	}
	_, _ = rand.Read(nonces[nonceSize:]) // never fails
	answer := append(nonces[nonceSize:len(nonces):len(nonces)], s.proof("guest", nonces)...)
	if _, err := nc.Write(answer); err != nil {
		return nil, err
	}
	var proof [proofSize]byte
	if _, err := io.ReadFull(nc, proof[:]); err != nil {
		return nil, err
	}
	if !hmac.Equal(proof[:], s.proof("host", nonces)) {
		return nil, errProof
	}
	return s, nil
}

// Joins reports whether what connected wants to join a session. If not, it
// returns the connection as if nothing had been read from it.
func Joins(nc net.Conn) (bool, net.Conn, error) {
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(nc, begin); err != nil {
		return false, nil, err
	}
	if string(begin) == magic {
		return true, nc, nil
	}
	return false, &unread{Conn: nc, r: io.MultiReader(bytes.NewReader(begin), nc)}, nil
}

// unread is a connection with something put back.
type unread struct {
	net.Conn
	r io.Reader
}

func (u *unread) Read(b []byte) (int, error) { return u.r.Read(b) }
