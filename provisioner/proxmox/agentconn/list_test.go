package agentconn

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Of very many paths no more are kept than are wanted.
func TestMatchKeepsFew(t *testing.T) {
	var paths bytes.Buffer
	const many = 100_000
	for i := range many {
		fmt.Fprintf(&paths, "./%06d\x00", i*7919%many)
	}
	paths.WriteString("./cut")
	names, total := match(paths.Bytes(), "", 3)
	if diff := cmp.Diff([]string{"000000", "000001", "000002"}, names); diff != "" || total != many {
		t.Errorf("total %d, names (-want +got):\n%s", total, diff)
	}
	if cap(names) > 10_000 {
		t.Errorf("room for %d names", cap(names))
	}
	if names, total := match(paths.Bytes(), "*11", 10); len(names) != 10 || total != many/100 {
		t.Errorf("%d of %d match", len(names), total)
	}
}
