package local

import (
	"testing"
	"time"
)

// What is left of a large machine, counted in bytes and multiplied by a second,
// is more than an int64 holds.
func TestNextLook(t *testing.T) {
	for _, tt := range []struct {
		name string
		left int64
		want time.Duration
	}{
		{"over", -1, guardShort},
		{"nothing", 0, guardShort},
		{"some", 800 << 20, 800 << 20 / guardRate},
		{"much", 4 << 30, guardLong},
		{"overflows", 12 << 30, guardLong},
		{"most", 16 << 40, guardLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := nextLook(tt.left); got != tt.want {
				t.Errorf("nextLook(%d) = %v, want %v", tt.left, got, tt.want)
			}
		})
	}
}
