package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Prefix is how every token of an AgentLab begins. Together with the checksum
// at its end it lets secret scanners recognise one with certainty:
//
//	agentlab_[a-z2-7]{10}_[a-z2-7]{59}
const Prefix = "agentlab_"

// idPrefix is how ids begin, so that none is taken for a name.
const idPrefix = "tok-"

// A token is the prefix, its id, "_", the secret and a checksum over all of it,
// each in base32 (RFC 4648, lower case, no padding).
const (
	idLen     = 10 // 50 random bits
	secretLen = 52 // 260 random bits
	sumLen    = 7  // CRC-32
)

var tokenForm = regexp.MustCompile(fmt.Sprintf("^%s([a-z2-7]{%d})_[a-z2-7]{%d}$", Prefix, idLen, secretLen+sumLen))

// newSecret returns the text of a new token, and its id.
func newSecret() (text redact.String, id string) {
	id = strings.ToLower(rand.Text()[:idLen])
	body := Prefix + id + "_" + strings.ToLower(rand.Text()+rand.Text()) // 26 characters of 5 bits each
	return redact.String(body + checksum(body)), idPrefix + id
}

// parse returns the id of the token that text is.
//
// Errors: ErrUnauthenticated, with what is wrong with it.
func parse(text redact.String) (id string, err error) {
	m := tokenForm.FindStringSubmatch(text.Reveal())
	if m == nil {
		return "", fmt.Errorf("%w: it is cut off or has other characters than a token", ErrUnauthenticated)
	}
	body := m[0][:len(m[0])-sumLen]
	if checksum(body) != m[0][len(body):] {
		return "", fmt.Errorf("%w: its checksum is wrong, so it was mistyped or damaged", ErrUnauthenticated)
	}
	return idPrefix + m[1], nil
}

// checksum finds mistakes; it proves nothing.
func checksum(body string) string {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body)))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum))
}

// hash is what is kept of a token. Its secret can't be guessed, so that a hash
// made to be slow would protect nothing more.
func hash(text redact.String) [sha256.Size]byte { return sha256.Sum256([]byte(text.Reveal())) }
