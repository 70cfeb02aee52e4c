package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestResize(t *testing.T) {
	db, path := open(t)
	sb, other := sandbox("sb-1"), sandbox("sb-2")
	sb.Cores, sb.MemoryMB, sb.DiskMB = 1, 100, 1000
	other.MemoryMB = 100
	add(t, db, sb)
	add(t, db, other)
	quota := sessions.Quota{Sandboxes: 1, MemoryMB: 300} // how many there are is another matter
	if _, err := db.Resize(t.Context(), "sb-1", sessions.Size{MemoryMB: 201}, quota, at(time.Second)); !errors.Is(err, sessions.ErrOverQuota) {
		t.Errorf("beyond the quota: %v", err)
	}
	got, err := db.Resize(t.Context(), "sb-1", sessions.Size{MemoryMB: 200, DiskMB: 2000}, quota, at(time.Second))
	sb.MemoryMB, sb.DiskMB = 200, 2000
	if diff := cmp.Diff(sb, got); diff != "" || err != nil {
		t.Errorf("Resize: %v\n%s", err, diff)
	}
	if kept, err := db.Sandbox(t.Context(), "sb-1"); !cmp.Equal(sb, kept) || err != nil {
		t.Errorf("it is recorded as %+v, %v", kept, err)
	}
	if _, err := db.Resize(t.Context(), "sb-1", sessions.Size{MemoryMB: 50}, sessions.Quota{MemoryMB: 10}, at(time.Second)); err != nil {
		t.Errorf("to less memory, beyond the quota: %v", err)
	}
	if n := len(events(t, path, "sb-1")); n != 3 {
		t.Errorf("%d events", n)
	}
	if _, err := db.Move(t.Context(), "sb-1", sessions.Failed, at(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Resize(t.Context(), "sb-1", sessions.Size{Cores: 2}, quota, at(time.Second)); !errors.Is(err, sessions.ErrConflict) {
		t.Errorf("of one that has ended: %v", err)
	}
	if _, err := db.Resize(t.Context(), "sb-3", sessions.Size{Cores: 2}, quota, at(time.Second)); !errors.Is(err, sessions.ErrNoRecord) {
		t.Errorf("of one that is not there: %v", err)
	}
}
