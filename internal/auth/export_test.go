package auth

import "github.com/agentlab-mcp/agentlab/internal/redact"

// NewSecret makes the text of a token that no store knows.
var NewSecret = newSecret

// Forge returns a token with the id of one and the secret of another, and a
// checksum that is right.
func Forge(id, secret redact.String) redact.String {
	end := len(Prefix) + idLen
	body := id.Reveal()[:end] + secret.Reveal()[end:len(secret)-sumLen]
	return redact.String(body + checksum(body))
}
