package pve

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"testing"
)

// noise is an answer that holds n bytes of a guest of which none follows from
// the others, as Perl writes them.
func noise(n int) (data, body []byte) {
	data = make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // it never fails
	text, _ := json.Marshal(latin1(data))         // neither does this
	return data, []byte(`{"data":{"content":` + string(text) + `,"truncated":0}}`)
}

// BenchmarkAnswer takes 4 MiB out of the answer to one read of a guest's file.
func BenchmarkAnswer(b *testing.B) {
	data, body := noise(4 << 20)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		raw, err := answer(Request{}, &http.Response{StatusCode: http.StatusOK}, body)
		var f struct{ Content Bytes }
		if err == nil {
			err = decode(Request{}, raw, &f)
		}
		if err != nil || !bytes.Equal(f.Content, data) {
			b.Fatal("other bytes than were sent", err)
		}
	}
}

// Whatever else is in an answer, in whatever order, and however a value looks,
// the data is the same.
func TestAnswers(t *testing.T) {
	for body, want := range map[string]string{
		`{"data":{"a":[1,{"b":"]},\"}"}]}}`:               `{"a":[1,{"b":"]},\"}"}]}`,
		`{"data":"a\\","total":3}`:                        `"a\\"`,
		`{"total":3,"data":[1,2]}`:                        `[1,2]`,
		` { "data" : 7 } `:                                `7`,
		`{"data": null }`:                                 `null`,
		"{\"data\":\n{\"a\":1}\n,\"message\":\"data\"}\n": `{"a":1}`,
		`{"total":3}`:                                     ``,
	} {
		got, err := answer(Request{}, &http.Response{StatusCode: http.StatusOK}, []byte(body))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", body, got, err)
		}
	}
	for _, body := range []string{`{"data":`, `{"data":{"a":1`, `{"data":"a`, `{"data":1}}`, `{"data":1} 2`, `{"data":[}`, `{"data":1,}`, `[]`, ``} {
		if got, err := answer(Request{}, &http.Response{StatusCode: http.StatusOK}, []byte(body)); !errors.Is(err, BadAnswer) {
			t.Errorf("%s: %s, %v", body, got, err)
		}
	}
	for _, data := range []string{`{"content":1,}`, `"x`, ``, `null`, `1 2`} {
		var out struct{ Content Bytes }
		if err := decode(Request{}, json.RawMessage(data), &out); !errors.Is(err, BadAnswer) {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// Bytes are the same however the text is written.
func TestBytes(t *testing.T) {
	for text, want := range map[string]string{
		`"a\u00e9\u00FF\u0000"`:   "a\xe9\xff\x00",
		"\"a\u00e9\u00ff\u0080\"": "a\xe9\xff\x80",
		`"\"\\\/\b\f\n\r\t/'"`:    "\"\\/\b\f\n\r\t/'",
		`""`:                      "",
		`null`:                    "",
		`12`:                      "12",
	} {
		var b Bytes
		if err := json.Unmarshal([]byte(text), &b); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", text, b, err)
		}
	}
	for _, text := range []string{`"\u0100"`, `"\ud83d\ude00"`, `"\ud83d"`, `"€"`, "\"\xff\"", `{}`} {
		var b Bytes
		if err := b.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s: %q", text, b)
		}
	}
}
