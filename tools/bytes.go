package tools

import (
	"context"
	"encoding/base64"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// BytesKey is the key in a request's _meta by which a program asks, with true,
// that what goes to and comes from a process are the bytes as they are: the
// stdin of control_process is base64 then, and read_process answers in
// the result's metadata with the streams apart, uncleaned, and without a text of
// them. list_sandboxes has larger pages then, without the text that says the
// same. A model has no use for it.
const BytesKey = "agentlab.dev/bytes"

type bytesKey struct{}

// WithBytes returns the context of such a request.
func WithBytes(ctx context.Context) context.Context {
	return context.WithValue(ctx, bytesKey{}, true)
}

func wantsBytes(ctx context.Context) bool { return ctx.Value(bytesKey{}) != nil }

// bytesMeta is what read_process answers in bytes.
type bytesMeta struct {
	execMeta
	Offset int64   `json:"offset"` // where Pieces begin: later than asked for if the rest is no longer kept
	Pieces []piece `json:"pieces"`
}

// piece is what came of one stream before the other went on.
type piece struct {
	Stream int    `json:"stream"` // 1 is standard output, also of a guest that can't say, 2 standard error
	Data   []byte `json:"data"`
}

// bytesResult is readResult for a program.
func bytesResult(p guest.Process, out guest.Output) Result {
	meta := bytesMeta{execMeta: metaOf(p), Offset: out.Offset, Pieces: []piece{}}
	meta.NextOffset, meta.Truncated = &out.Next, p.Stdout+p.Stderr > out.Next
	runs, rest := out.Runs, out.Both
	if runs == nil {
		runs = []int{len(rest)}
	}
	for i, n := range runs {
		if n > 0 {
			meta.Pieces = append(meta.Pieces, piece{1 + i%2, rest[:n]})
			rest = rest[n:]
		}
	}
	return plain(status(p), meta)
}

// stdinOf returns the bytes that an argument stands for.
func stdinOf(ctx context.Context, arg string) (string, error) {
	if !wantsBytes(ctx) {
		return arg, nil
	}
	data, err := base64.StdEncoding.DecodeString(arg)
	if err != nil {
		return "", invalid("stdin: want base64, as _meta has %s: %v", BytesKey, err)
	}
	return string(data), nil
}
