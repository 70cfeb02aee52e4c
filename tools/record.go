package tools

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Of the arguments of a call is recorded what says what was done, and not what it
// was done with: numbers, names, paths and commands as they are, with what looks
// like a secret masked; of what a file or standard input is to have, and of an
// argument that there is none of, the size and the SHA-256; of variables the
// names and sizes, since a short secret is guessed from its hash.
const (
	textLimit = 4095 // bytes; what may be longer, as no path may, is contents
	keptLimit = 1000 // bytes of a text that are recorded
	enumLimit = 100  // bytes of one that should have been of a few
)

// digest stands for a text that is not recorded, or only the beginning of it.
type digest struct {
	Begins string `json:"begins,omitempty"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest{Bytes: len(text), SHA256: hex.EncodeToString(sum[:])}
}

// record returns the sandbox that a call names, which may be made up, and its
// arguments as they may be kept: a JSON object.
func (ps params) record(args json.RawMessage) (sandbox, arguments string) {
	given, kept := map[string]json.RawMessage{}, map[string]any{}
	if len(bytes.TrimSpace(args)) > 0 && json.Unmarshal(args, &given) != nil {
		kept["malformed"] = digestOf(string(args))
	}
	for _, p := range ps {
		raw, ok := given[p.Name]
		delete(given, p.Name)
		if !ok || string(raw) == "null" {
			continue
		}
		kept[p.Name] = p.record(raw)
		if p.Name == "sandbox_id" {
			sandbox = unquote(raw)
		}
	}
	if len(given) > 0 {
		kept["unknown"] = digestOf(string(mustMarshal(given)))
	}
	return sandbox, string(mustMarshal(kept))
}

// record returns what is kept of one argument.
func (p *param) record(raw json.RawMessage) any {
	text, limit := unquote(raw), p.maxBytes
	switch {
	case p.Type == "object":
		return p.recordVariables(raw)
	case p.isContents():
		return digestOf(text)
	case limit == 0:
		limit = enumLimit
	}
	if len(text) > limit {
		return digestOf(text)
	}
	if p.Type != "string" && raw[0] != '"' && raw[0] != '{' && raw[0] != '[' {
		return raw // a number, or true or false
	}
	return recordText(text)
}

// recordText returns what is kept of a text that says what was done.
func recordText(text string) any {
	shown := redact.Text(text)
	if len(text) <= keptLimit {
		return shown
	}
	d := digestOf(text)
	d.Begins = strings.ToValidUTF8(shown[:min(len(shown), keptLimit)], "")
	return d
}

// isContents says that the text is what a file or standard input is to have, which
// is told nobody.
func (p *param) isContents() bool { return p.maxBytes > textLimit && !p.shown }

// recordVariables returns the size of each value.
func (p *param) recordVariables(raw json.RawMessage) any {
	values, err := p.strings(raw)
	if err != nil {
		return digestOf(string(raw))
	}
	return recordSizes(values)
}

func recordSizes(variables map[string]string) any {
	sizes := map[string]int{}
	for name, v := range variables {
		if len(name) > enumLimit || !utf8.ValidString(name) {
			return digestOf(string(mustMarshal(variables)))
		}
		sizes[redact.Text(name)] = len(v)
	}
	return map[string]any{"bytes": sizes}
}

// mustMarshal is for what always has a form in JSON.
func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}
