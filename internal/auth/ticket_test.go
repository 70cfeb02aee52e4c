package auth_test

import (
	"errors"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
)

// A ticket with any of its characters changed is none: not even one that base64
// reads the same bits of.
func TestChangedTicketsDoNotCount(t *testing.T) {
	tickets := auth.NewTickets(time.Now)
	text, err := tickets.Sign(auth.Ticket{Principal: "p", Sandbox: "s", Path: "/f", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tickets.Parse(text); err != nil || got.Path != "/f" || got.Principal != "p" || got.Write {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range text {
		for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=") {
			changed := []byte(text)
			changed[i] = c
			if _, err := tickets.Parse(string(changed)); c != text[i] && !errors.Is(err, auth.ErrTicket) {
				t.Errorf("character %d: %q becomes %q: %v", i, text[i], c, err)
			}
		}
	}
}
