package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// ErrTicket means that a ticket is none of ours, was changed, or its time is over.
var ErrTicket = errors.New("ticket is not valid")

// Ticket lets whoever holds it read or write one file of a sandbox, on behalf
// of the principal that asked for it.
type Ticket struct {
	ID        string
	Principal string
	Sandbox   string
	Path      string // absolute, in the sandbox
	Write     bool   // write the file; otherwise read it
	Expires   time.Time
}

// Tickets signs tickets. They are JSON web tokens (RFC 7519, HS256) under a key
// that ends with the process: they are short-lived, and nothing is stored.
type Tickets struct {
	key []byte
	now func() time.Time
}

// NewTickets returns a signer with a key of its own.
func NewTickets(now func() time.Time) *Tickets {
	return &Tickets{key: []byte(rand.Text() + rand.Text()), now: now}
}

type ticketClaims struct {
	jwt.RegisteredClaims
	Sandbox string `json:"sbx"`
	Path    []byte `json:"path"` // any bytes
	Write   bool   `json:"write,omitempty"`
}

// ticketAudience keeps other tokens from being taken for tickets.
const ticketAudience = "agentlab file"

// Sign returns the ticket as text that can stand in a URL, with a new ID.
func (t *Tickets) Sign(ticket Ticket) (string, error) {
	claims := ticketClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: rand.Text(), Subject: ticket.Principal, Audience: jwt.ClaimStrings{ticketAudience}, ExpiresAt: jwt.NewNumericDate(ticket.Expires),
		},
		Sandbox: ticket.Sandbox, Path: []byte(ticket.Path), Write: ticket.Write,
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(t.key)
	if err != nil {
		return "", fmt.Errorf("sign ticket: %w", err)
	}
	return text, nil
}

// Parse returns the ticket that text is.
//
// Errors: ErrTicket.
func (t *Tickets) Parse(text string) (Ticket, error) {
	var claims ticketClaims
	_, err := jwt.ParseWithClaims(text, &claims, func(*jwt.Token) (any, error) { return t.key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithStrictDecoding(), jwt.WithAudience(ticketAudience),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(t.now))
	if err != nil {
		return Ticket{}, fmt.Errorf("%w: %w", ErrTicket, err)
	}
	return Ticket{
		ID: claims.ID, Principal: claims.Subject, Sandbox: claims.Sandbox,
		Path: string(claims.Path), Write: claims.Write, Expires: claims.ExpiresAt.Time,
	}, nil
}
