package mcpserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// FuzzLines: whatever comes in whatever pieces, the reader gives the lines that
// bytes.Split gives, but for those that are too long.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\n\nbcdefghijklmnopqrstuvwxyz\r\nlast"), 10, true)
	f.Add([]byte("0123456789\n0123456789x\n"), 10, false)
	f.Fuzz(func(t *testing.T, input []byte, limit int, slow bool) {
		if limit < 1 || limit > 1000 {
			return
		}
		var src io.Reader = bytes.NewReader(input)
		if slow {
			src = iotest.OneByteReader(src)
		}
		r := &lineReader{src: bufio.NewReaderSize(src, 16), max: limit}
		want := bytes.Split(input, []byte{'\n'})
		if len(want[len(want)-1]) == 0 {
			want = want[:len(want)-1]
		}
		for i, w := range want {
			got, err := r.next()
			var long *tooLong
			switch {
			case len(w) > limit+1:
				if !errors.As(err, &long) {
					t.Fatalf("line %d of %d bytes: %q, %v; want too long", i, len(w), got, err)
				}
			case errors.As(err, &long) && len(w) > limit: // within one byte of the limit either will do
			case err != nil || !bytes.Equal(got, bytes.TrimRight(w, "\r")):
				t.Fatalf("line %d: %q, %v; want %q", i, got, err, w)
			}
		}
		if got, err := r.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last line: %q, %v", got, err)
		}
	})
}

// FuzzParse: what parse accepts as a request can be answered, and told from others.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"name":"x"}}`))
	f.Add([]byte(`{"id":1e5,"params":{"requestId":null}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		msg, problem := parse(line)
		if _, err := json.Marshal(toResponse(nil, msg.ID)); err != nil {
			t.Fatalf("%s: answer: %v", line, err)
		}
		if problem == nil && msg.ID != nil && key(msg.ID) == "" {
			t.Fatalf("%s: id %s accepted", line, msg.ID)
		}
	})
}

func TestIDOfALineThatIsTooLong(t *testing.T) {
	for _, tt := range []struct{ name, head, tail, want string }{
		{"first", `{"jsonrpc": "2.0", "id": 12, "method":`, `}}`, "12"},
		{"last", `{"method":"x","params":{`, `}, "jsonrpc":"2.0","id":"a-1"}`, `"a-1"`},
		{"inside-params", `{"method":"x","params":{"id":5,`, `"id":6}}`, ""},
		{"inside-text", `{"method":"x","params":{"t":"{\"jsonrpc\":\"2.0\",\"id\":7,`, `"}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &tooLong{head: []byte(tt.head), tail: []byte(tt.tail)}
			if got := string(e.id()); got != tt.want {
				t.Errorf("id %s, want %s", got, tt.want)
			}
		})
	}
}
