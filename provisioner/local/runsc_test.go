package local

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The runsc that is built rests while nothing happens; see the directory runsc.
func TestRunscRests(t *testing.T) {
	program, err := os.ReadFile(filepath.Join(programs(t), "runsc"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(program, []byte("systrap.(*rest).sleep")) {
		t.Error("runsc looks 2500 times a second for work; run make bin/runsc")
	}
}
