package mcpserver

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/agentlab-mcp/agentlab/tools"
)

// What the requests of one connection take together is bounded; what must get
// through is not kept out by it.
func TestAdmitBoundsBytes(t *testing.T) {
	c := &conn{srv: &Server{byName: map[string]tools.Tool{"destroy": {Urgent: true}}}, calls: map[string]*call{}}
	request := func(id int, tool string) *call {
		r := &call{size: maxLine}
		r.ID, r.Method, r.Params.Name = json.RawMessage(fmt.Sprint(id)), "tools/call", tool
		return r
	}
	var running []*call
	for i := range maxBytes / maxLine {
		r := request(i, "write_file")
		if problem := c.admit(r); problem != nil {
			t.Fatalf("request %d: %+v", i, problem)
		}
		running = append(running, r)
	}
	if problem := c.admit(request(10, "write_file")); problem == nil || problem.Code != busy {
		t.Errorf("one more: %+v, want code %d", problem, busy)
	}
	if problem := c.admit(request(11, "destroy")); problem != nil {
		t.Errorf("an urgent one: %+v", problem)
	}
	c.release(running[0])
	c.release(request(11, "destroy"))
	if problem := c.admit(request(12, "write_file")); problem != nil {
		t.Errorf("after one has ended: %+v", problem)
	}
}
