package tools

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

type sampleIn struct {
	Name  string            `arg:"name,required" bytes:"10"`
	Mode  string            `arg:"mode" enum:"INT|TERM" default:"INT"`
	Count int               `arg:"count_seconds" min:"1" max:"100" default:"7"`
	Maybe *int              `arg:"maybe"`
	Flag  bool              `arg:"flag"`
	Env   map[string]string `arg:"env" bytes:"20"`
}

func sampleParams() params { return paramsOf[sampleIn](func(*Property) {}) }

func TestDecode(t *testing.T) {
	five := 5
	for _, tt := range []struct {
		name, args string
		want       sampleIn
	}{
		{"defaults", `{"name":"a"}`, sampleIn{Name: "a", Mode: "INT", Count: 7}},
		{"null-is-absent", `{"name":"a","count_seconds":null,"mode":null,"maybe":null,"env":null}`, sampleIn{Name: "a", Mode: "INT", Count: 7}},
		{"quoted", `{"name":"a","count_seconds":"5","maybe":" 5 ","flag":"True"}`, sampleIn{Name: "a", Mode: "INT", Count: 5, Maybe: &five, Flag: true}},
		{"float", `{"name":"a","count_seconds":5.0,"maybe":5e0}`, sampleIn{Name: "a", Mode: "INT", Count: 5, Maybe: &five}},
		{"number-for-string", `{"name":755}`, sampleIn{Name: "755", Mode: "INT", Count: 7}},
		{"enum-in-lower-case", `{"name":"a","mode":"term"}`, sampleIn{Name: "a", Mode: "TERM", Count: 7}},
		{"object", `{"name":"a","env":{"A":"b","N":1,"T":true,"X":null}}`, sampleIn{Name: "a", Mode: "INT", Count: 7, Env: map[string]string{"A": "b", "N": "1", "T": "true"}}},
		{"quoted-object", `{"name":"a","env":"{\"A\":\"b\"}"}`, sampleIn{Name: "a", Mode: "INT", Count: 7, Env: map[string]string{"A": "b"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got sampleIn
			if err := sampleParams().decode(json.RawMessage(tt.args), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("decode (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ name, args, want string }{
		{"not-an-object", `[1]`, "arguments must be a JSON object with name, mode, count_seconds, maybe, flag, env"},
		{"missing", ``, "name: is required (string)"},
		{"duration", `{"name":"a","count_seconds":"1h"}`, `count_seconds: "1h" is not a whole number (allowed: 1 to 100); for 1h give 3600`},
		{"fraction", `{"name":"a","count_seconds":1.5}`, "count_seconds: 1.5 is not a whole number (allowed: 1 to 100)"},
		{"range", `{"name":"a","count_seconds":101}`, "count_seconds: 101 is out of range (allowed: 1 to 100)"},
		{"huge", `{"name":"a","maybe":1e300}`, "maybe: 1e300 is not a whole number"},
		{"not-a-number", `{"name":"a","maybe":"NaN"}`, `maybe: "NaN" is not a whole number`},
		{"enum", `{"name":"a","mode":"STOP"}`, `mode: "STOP" is not one of INT, TERM`},
		{"bool", `{"name":"a","flag":"maybe"}`, `flag: "maybe" must be true or false`},
		{"string", `{"name":["a"]}`, `name: ["a"] must be a string`},
		{"long", `{"name":"aaaaaaaaaaa"}`, "name: has 11 bytes, at most 10 are allowed"},
		{"nul", `{"name":"a\u0000"}`, `name: must not contain a NUL character (\u0000)`},
		{"nested", `{"name":"a","env":{"A":{}}}`, `env: value of "A" must be a string`},
		{"env-secret", `{"name":"a","env":"A=canary"}`, `env: must be an object of strings, as {"NAME": "value"}`},
		{"env-too-long", `{"name":"a","env":{"A":"aaaaaaaaaaaaaaaaaaaa"}}`, "env: has 21 bytes, at most 20 are allowed"},
		{"near", `{"name":"a","cuont_seconds":1}`, `"cuont_seconds" is not an argument; did you mean count_seconds?`},
		{"far", `{"name":"a","xyz":1}`, `"xyz" is not an argument; there are name, mode, count_seconds, maybe, flag, env`},
		{"several", `{"nam":1,"flag":9}`, "name: is required (string)\nflag: 9 must be true or false\n\"nam\" is not an argument; did you mean name?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := sampleParams().decode(json.RawMessage(tt.args), new(sampleIn))
			var known *sessions.Error
			if !errors.As(err, &known) || known.Kind != sessions.Invalid {
				t.Fatalf("error %#v", err)
			}
			if diff := cmp.Diff(tt.want, known.Msg); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzDecode: whatever the arguments, decoding ends, what it accepts is within
// the limits of the schema, and what it says of the rest can be shown.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","count_seconds":"5","env":{"A":1},"flag":"no"}`))
	f.Add([]byte(`{"name":null,"maybe":-1e99,"zzz":[[]]}`))
	ps := sampleParams()
	f.Fuzz(func(t *testing.T, args []byte) {
		if !json.Valid(args) {
			return // the transport lets none of it through
		}
		var in sampleIn
		err := ps.decode(args, &in)
		if err != nil {
			if msg := err.Error(); !utf8.ValidString(msg) || msg == "" {
				t.Fatalf("decode(%s): %q", args, msg)
			}
			return
		}
		if len(in.Name) > 10 || strings.Contains(in.Name, "\x00") || in.Count < 1 || in.Count > 100 || in.Mode != "INT" && in.Mode != "TERM" {
			t.Fatalf("decode(%s) = %+v", args, in)
		}
	})
}
