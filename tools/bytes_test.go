package tools_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/tools"
)

// A program moves bytes that are no text, and is told which stream they are of.
func TestBytesOfAProcess(t *testing.T) {
	e := newEnv(t)
	for name, tool := range e.tools {
		call := tool.Call
		tool.Call = func(ctx context.Context, args json.RawMessage) tools.Result {
			return call(tools.WithBytes(ctx), args)
		}
		e.tools[name] = tool
	}
	res := e.call("exec", args{"command": `head -c 3; read x; printf '\033[1m\377' >&2; read y; printf '10%%\r20%%'`, "wait_seconds": 0})
	id := metaOf(t, res)["process_id"].(string)
	type piece struct {
		Stream int
		Data   []byte
	}
	read := func(offset int) (got []piece, next float64) {
		t.Helper()
		meta := metaOf(t, e.call("read_process", args{"process_id": id, "offset": offset, "wait_seconds": 55}))
		told, err := json.Marshal(meta["pieces"])
		check(t, err)
		check(t, json.Unmarshal(told, &got))
		return got, meta["next_offset"].(float64)
	}
	e.call("control_process", args{"process_id": id, "stdin": "AP8K"}) // 00 FF 0A
	if got, next := read(0); !cmp.Equal(got, []piece{{1, []byte("\x00\xff\n")}}) || next != 3 {
		t.Errorf("got %v, then %v", got, next)
	}
	e.call("control_process", args{"process_id": id, "stdin": "Cg=="})
	if got, _ := read(3); !cmp.Equal(got, []piece{{2, []byte("\x1b[1m\xff")}}) {
		t.Errorf("got %v", got)
	}
	e.call("control_process", args{"process_id": id, "stdin": "Cg==", "close_stdin": true})
	if got, _ := read(8); !cmp.Equal(got, []piece{{1, []byte("10%\r20%")}}) {
		t.Errorf("got %v", got)
	}
	if got, _ := read(0); len(got) != 3 || got[1].Stream != 2 {
		t.Errorf("all of it is %v", got)
	}
	e.wantError("control_process", args{"process_id": id, "stdin": "no base64!"}, "stdin: want base64")
}

// Programs are told the class of an error, which the text has only for people.
func TestKindOfAnError(t *testing.T) {
	e := newEnv(t)
	for tool, want := range map[string]string{"read_process": "not_found", "control_process": "invalid"} {
		if got := metaOf(t, e.try(tool, args{"process_id": "p_99"}))["kind"]; got != want {
			t.Errorf("%s: kind %v, want %s", tool, got, want)
		}
	}
	if got := metaOf(t, tools.Refused("no"))["kind"]; got != tools.OutcomeRefused {
		t.Errorf("refused: kind %v", got)
	}
}
