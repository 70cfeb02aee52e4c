package qemuguest

import (
	"encoding/json"
	"io"
	"net"
	"testing"
)

// A command's answer is found among events, and its error is told.
func TestQMP(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		defer func() { _ = theirs.Close() }()
		say := func(text string) { _, _ = io.WriteString(theirs, text+"\n") }
		say(`{"QMP": {"version": {}}}`)
		in := json.NewDecoder(theirs)
		for _, reply := range []string{`{"return": {}}`, `{"event": "RESUME"}` + "\n" + `{"return": {}}`, `{"error": {"class": "GenericError", "desc": "no such thing"}}`} {
			var cmd struct{ Execute string }
			if in.Decode(&cmd) != nil {
				return
			}
			say(reply)
		}
	}()
	q, err := newQMP(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.execute("system_powerdown"); err != nil {
		t.Error(err)
	}
	if err := q.execute("nonsense"); err == nil || err.Error() != "nonsense: no such thing" {
		t.Errorf("an error: %v", err)
	}
	if err := q.execute("quit"); err == nil {
		t.Error("a QEMU that is gone answers")
	}
}
