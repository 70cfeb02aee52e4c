package local

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// What can't be read for want of file descriptors is neither gone nor dead, nor
// somebody else's.
func TestWithoutFileDescriptors(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.create(t, testSpec("sb-alive"))
	for free := range 4 {
		var list []provisioner.Machine
		var listed, adopted, destroyed error
		withFree(t, free, func() {
			list, listed = p.List(t.Context())
			if free == 0 {
				_, adopted = p.Create(t.Context(), testSpec("sb-alive"))
				destroyed = p.Destroy(t.Context(), ref)
			}
		})
		if listed == nil && (len(list) != 1 || list[0].Handle != "sb-alive" || !list[0].Unread && !list[0].Running) {
			t.Errorf("List with %d free: %+v", free, list)
		}
		if free == 0 && (adopted == nil || !errors.Is(destroyed, provisioner.ErrUnavailable)) {
			t.Errorf("Create: %v, Destroy: %v", adopted, destroyed)
		}
	}
	if list, err := p.List(t.Context()); err != nil || len(list) != 1 || !list[0].Running {
		t.Errorf("List afterwards: %+v, %v", list, err)
	}
}

// withFree calls f while so many files more can be opened.
func withFree(t *testing.T, free int, f func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			_ = file.Close()
		}
	}()
	highest := 0 // the free numbers below it are used up before the limit is put there
	for len(files) < 32 {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files, highest = append(files, file), max(highest, int(file.Fd()))
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(highest + 1), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	for _, file := range files[len(files)-free:] {
		_ = file.Close()
	}
	f()
}
