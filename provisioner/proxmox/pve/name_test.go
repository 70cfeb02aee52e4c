package pve_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// The name of a call has what its place in the API is, and none of the names of
// what it is about, whatever these are.
func TestNameOfEachCall(t *testing.T) {
	table, err := os.ReadFile("endpoints.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`endpoint\{"(\w+)", "/([^"]+)"`).FindAllStringSubmatch(string(table), -1)
	if len(calls) < 50 {
		t.Fatalf("found %d calls", len(calls))
	}
	for _, c := range calls {
		want := c[1] + " " + strings.ReplaceAll(c[2], "/{}", "")
		for _, name := range []string{"private", "101", "UPID:pve:1:", "nodes", "qemu", "token"} {
			r := pve.Request{Method: c[1], Path: strings.Split(strings.ReplaceAll(c[2], "{}", name), "/")}
			if got := r.Name(); got != want {
				t.Errorf("%v is called %q, want %q", r, got, want)
			}
		}
	}
}
