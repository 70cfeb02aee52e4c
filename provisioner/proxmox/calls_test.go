package proxmox

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What a Create asks of Proxmox besides polling its tasks: eight calls at most,
// and six once the template is known and the last look is fresh, also if a
// machine in that look was destroyed since.
func TestCreateCalls(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	p := l.provisioner()
	calls := func(n int) map[string]int {
		l.onCall(nil)
		if _, err := p.Create(t.Context(), testSpec(n)); err != nil {
			t.Fatal(err)
		}
		counted := l.counted()
		delete(counted, "GET status") // of tasks
		return counted
	}
	want := map[string]int{"GET resources": 1, "GET config": 2, "POST clone": 1, "PUT config": 1, "PUT resize": 1, "POST start": 1}
	if diff := cmp.Diff(want, calls(1)); diff != "" {
		t.Errorf("the first (-want +got):\n%s", diff)
	}
	list, err := p.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("List: %+v, %v", list, err)
	}
	for range 2 { // what is gone may be destroyed again
		if err := p.Destroy(t.Context(), list[0].Ref); err != nil {
			t.Fatal(err)
		}
	}
	delete(want, "GET resources")
	want["GET config"] = 1
	got := calls(2)
	delete(got, "GET resources") // one, if all this took more than a second
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the second (-want +got):\n%s", diff)
	}
}
