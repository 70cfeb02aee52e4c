// Package wire is what agentlab-guest and sshguest say to each other where
// standard SSH can't say it exactly or fast enough: arguments as they are
// instead of a line for a shell, errors told apart, names of any bytes, and no
// cipher for bytes that never leave the host.
//
// SSH is the door. Inside it, once both sides have shown their keys, the host
// asks for a [Session]; then it needs the SSH connection no more. All further
// connections to the same address join the session. Each begins with a frame of
// [Open], which says what it is for:
//
// Short calls share one, of kind [Calls], as frames: a request carries an id and
// is answered by one frame with that id, in any order. It is the session: when
// it ends, all of the session ends.
//
// Calls that stream have a connection each, in parts of a [Kind], of which the
// last is [End]; without that, it broke off. The kernel's buffers are what makes
// either side wait for the other, and to close it is to cancel.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Version is how the server's SSH version string begins; a change of this
// package that is not compatible changes it.
const Version = "SSH-2.0-AgentLabGuest_2"

// What a connection is for.
const (
	Calls = "calls" // frames; one per session
	Run   = "run"   // RunRequest
	Read  = "read"  // ReadRequest
	Write = "write" // WriteRequest
)

// Open is the first frame of a connection.
type Open struct {
	For  string          `json:"for"`
	Args json.RawMessage `json:"args,omitempty"`
}

// MaxFrame is the longest frame in bytes, and MaxAnswer how much output or how
// many bytes of names an answer may carry, so that it fits a frame as base64.
const (
	MaxFrame  = 4 << 20
	MaxAnswer = 1 << 20
)

// Names of short calls.
const (
	OpPing    = "ping"
	OpCancel  = "cancel" // of the call with the same id; not answered itself
	OpStart   = "start"
	OpRead    = "read"
	OpControl = "control"
	OpList    = "list"
	OpFiles   = "files"
	OpRekey   = "rekey" // guest.Rekey; answered on the session that asked, which then ends
)

// Request is a frame from the host. ID is chosen by the host and not used
// again while its answer is due.
type Request struct {
	ID   uint64          `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// Answer is a frame from the guest.
type Answer struct {
	ID     uint64          `json:"id"`
	Err    *Error          `json:"err,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// errFrame is returned for a frame that nobody who keeps to the protocol sends.
var errFrame = errors.New("malformed frame")

// Frame returns v as a frame: its length in four bytes, then JSON.
func Frame(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("frame of %d bytes: %w", len(body), errFrame)
	}
	out := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(out, uint32(len(body)))
	return append(out, body...), nil
}

// ReadFrame reads the next frame into v. It never holds more than what has
// come, whatever length the frame claims.
func ReadFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return fmt.Errorf("frame of %d bytes: %w", n, errFrame)
	}
	body, err := readN(r, int(n))
	if err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %v", errFrame, err)
	}
	return nil
}

// readN reads n bytes, growing with what comes.
func readN(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	buf := make([]byte, 0, min(n, step))
	for len(buf) < n {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(n, 2*cap(buf))), buf...)
		}
		m, err := io.ReadFull(r, buf[len(buf):min(n, cap(buf))])
		buf = buf[:len(buf)+m]
		if err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// Clamp returns n as a number of bytes an answer may carry.
func Clamp(n int) int { return int(min(max(int64(n), 0), MaxAnswer, math.MaxInt32)) }
