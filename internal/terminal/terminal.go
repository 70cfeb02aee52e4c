// Package terminal is what a program of a person's and the daemon say to each
// other about one command in a sandbox, with its streams and, if wanted, a
// terminal: what the request and response of a tool can't carry. Both sides send
// parts of a [Kind]. The first is a [Request], for a command or for a [Service],
// the last an [Exit] or a [Failure]; without either, it broke off. To close the connection is to kill the
// command. The daemon makes input wait by asking for no more of it, so that it
// always reads and sees the end.
package terminal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind is that of a part.
type Kind byte

// Kinds of parts.
const (
	Start   Kind = iota + 1 // to the daemon: Request for a command, the first
	Input                   // to the daemon, one for each More: standard input
	EOF                     // to the daemon, for a More: there is no more standard input
	Resize                  // to the daemon: Size
	More                    // from the daemon: there is room for one more part of input
	Output                  // from the daemon: standard output, or what the terminal shows
	ErrOut                  // from the daemon: standard error, where there is no terminal
	Exited                  // from the daemon: Exit, the last
	Failed                  // from the daemon: Failure, the last
	Serve                   // to the daemon: Request for a service, the first instead of Start
	highest = Serve
)

// MaxPart is the longest part, in bytes.
const MaxPart = 64 << 10

// Request says what to run.
type Request struct {
	Sandbox string `json:"sandbox_id"`
	Command string `json:"command,omitempty"` // a line for the profile's shell; empty is that shell itself
	User    string `json:"user,omitempty"`    // empty is the sandbox's
	TTY     *TTY   `json:"tty,omitempty"`     // nil is none

	// Env are variables in addition to those that the user starts with.
	Env map[string]string `json:"env,omitempty"`
	// Service is run instead of a command. A daemon that knows none would run a
	// shell, were such a request not of a kind of its own.
	Service *Service `json:"service,omitempty"`
}

// Service is a program of ours in a sandbox. With none of its fields nothing is run,
// and it is only seen whether something could be.
type Service struct {
	// Port is a TCP port of the sandbox's own loopback. The streams are joined to
	// what listens there, after one line that says that something does.
	Port int `json:"port,omitempty"`
	// Files is to speak SFTP.
	Files bool `json:"files,omitempty"`
}

// TTY is a terminal.
type TTY struct {
	Term string `json:"term"` // the value of TERM
	Size
}

// Size is that of a terminal in characters.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// Exit is how the command ended.
type Exit struct {
	Code int `json:"code"` // 128 and the signal's number if one ended it
}

// Failure says why there is no Exit.
type Failure struct {
	Kind string `json:"kind"` // a sessions.Kind, or "refused"
	Text string `json:"text"` // for people
}

// Error returns the text.
func (f Failure) Error() string { return f.Text }

const headSize = 4 // the kind, and the length in three bytes

// Writer writes parts, from many goroutines.
type Writer struct {
	mu  sync.Mutex
	out io.Writer
}

// NewWriter returns a Writer on out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

var errTooLong = errors.New("part")

// Send sends one part, of at most MaxPart bytes.
func (w *Writer) Send(k Kind, b []byte) error {
	if len(b) > MaxPart {
		return fmt.Errorf("%w of %d bytes, allowed: %d", errTooLong, len(b), MaxPart)
	}
	part := make([]byte, headSize, headSize+len(b))
	binary.BigEndian.PutUint32(part, uint32(k)<<24|uint32(len(b)))
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(append(part, b...))
	return err
}

// SendJSON sends v as one part.
func (w *Writer) SendJSON(k Kind, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a part: %w", err)
	}
	return w.Send(k, text)
}

// Stream returns what writes to the other side as parts of one kind.
func (w *Writer) Stream(k Kind) io.Writer { return stream{w, k} }

type stream struct {
	*Writer
	kind Kind
}

// Write is part of io.Writer.
func (s stream) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		part := b[:min(len(b), MaxPart)]
		if err := s.Send(s.kind, part); err != nil {
			return n, err
		}
		n, b = n+len(part), b[len(part):]
	}
	return n, nil
}

// errMalformed is a part that nobody sends who keeps to the protocol.
var errMalformed = errors.New("malformed part")

// Read reads the next part. It is io.EOF between two parts if there is none.
func Read(in io.Reader) (Kind, []byte, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	k, n := Kind(head[0]), binary.BigEndian.Uint32(head[:])&0xffffff
	if k == 0 || k > highest || n > MaxPart {
		return 0, nil, fmt.Errorf("kind %d, %d bytes: %w", k, n, errMalformed)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return 0, nil, fmt.Errorf("read a part: %w", io.ErrUnexpectedEOF)
	}
	return k, b, nil
}

// Decode reads the JSON of a part.
func Decode[T any](b []byte) (v T, err error) {
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%w: %v", errMalformed, err)
	}
	return v, nil
}
