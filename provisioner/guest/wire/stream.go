package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Kind is that of a part of a stream.
type Kind byte

// Kinds of parts.
const (
	Data    Kind = iota + 1 // standard input or output, or of the file
	ErrData                 // guest to host: standard error
	EOF                     // host to guest: there is no more standard input
	More                    // guest to host: there is room for one more part of standard input
	Resize                  // host to guest: Size
	Commit                  // host to guest: the number of bytes sent, in decimal; all is well
	Begin                   // guest to host: FileInfo of the file that is read
	End                     // guest to host: EndStream, the last of a stream
)

// MaxPart is the longest part of a stream in bytes, StreamBuffer how much of
// one is read at once.
const (
	MaxPart      = 256 << 10
	StreamBuffer = 132 << 10
)

const headSize = 4 // the kind, and the length in three bytes

// StreamWriter writes the parts of a stream, from many goroutines.
type StreamWriter struct {
	mu sync.Mutex
	nc net.Conn
}

// NewStreamWriter returns a StreamWriter on nc.
func NewStreamWriter(nc net.Conn) *StreamWriter { return &StreamWriter{nc: nc} }

// Send sends one part, of at most MaxPart bytes.
func (w *StreamWriter) Send(k Kind, b []byte) error {
	if len(b) > MaxPart {
		return fmt.Errorf("part of %d bytes: %w", len(b), errFrame)
	}
	var head [headSize]byte
	binary.BigEndian.PutUint32(head[:], uint32(k)<<24|uint32(len(b)))
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := net.Buffers{head[:], b}
	_, err := parts.WriteTo(w.nc)
	return err
}

// SendJSON sends v as one part.
func (w *StreamWriter) SendJSON(k Kind, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode part: %w", err)
	}
	return w.Send(k, text)
}

// Writer returns a writer of parts of kind k; it takes MaxPart bytes at once.
func (w *StreamWriter) Writer(k Kind) io.Writer { return partWriter{w, k} }

type partWriter struct {
	w *StreamWriter
	k Kind
}

func (p partWriter) Write(b []byte) (int, error) {
	if err := p.w.Send(p.k, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// buffers are shared: a stream is short.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, StreamBuffer) }}

// StreamReader reads the parts of a stream. It holds no more than its buffer,
// whatever lengths the far side claims, and needs no lock of its own.
type StreamReader struct {
	in   *bufio.Reader
	left int // of the part
}

// NewStreamReader returns a StreamReader on r. The caller releases it.
func NewStreamReader(r io.Reader) *StreamReader {
	in := buffers.Get().(*bufio.Reader)
	in.Reset(r)
	return &StreamReader{in: in}
}

// Release gives the buffer back. The reader must not be used any more.
func (r *StreamReader) Release() {
	r.in.Reset(nil)
	buffers.Put(r.in)
	r.in = nil
}

// Next goes on to the next part.
func (r *StreamReader) Next() (Kind, error) {
	for r.left > 0 {
		if _, err := r.Piece(); err != nil {
			return 0, err
		}
	}
	head, err := r.in.Peek(headSize)
	if err != nil {
		return 0, err
	}
	word := binary.BigEndian.Uint32(head)
	_, _ = r.in.Discard(headSize) // it is there
	if r.left = int(word & 0xffffff); r.left > MaxPart {
		return 0, fmt.Errorf("part of %d bytes: %w", r.left, errFrame)
	}
	return Kind(word >> 24), nil
}

// Piece returns what has come of the part, waiting for some. It is valid until
// the next call. At the end of the part it returns io.EOF.
func (r *StreamReader) Piece() ([]byte, error) {
	if r.left == 0 {
		return nil, io.EOF
	}
	if r.in.Buffered() == 0 {
		if _, err := r.in.Peek(1); err != nil {
			return nil, unexpected(err)
		}
	}
	b, _ := r.in.Peek(min(r.left, r.in.Buffered()))
	_, _ = r.in.Discard(len(b)) // it is there
	r.left -= len(b)
	return b, nil
}

// Read reads from the part, with io.EOF at its end.
func (r *StreamReader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(b[:min(len(b), r.left)])
	r.left -= n
	return n, unexpected(err)
}

// JSON reads the part into v.
func (r *StreamReader) JSON(v any) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %v", errFrame, err)
	}
	return nil
}

// unexpected makes of an end in the middle an error that is no end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
