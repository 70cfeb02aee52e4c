package guest_test

import (
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

type plain struct{ guest.Conn }

type able struct{ plain }

type wrapper struct{ plain }

func (w wrapper) Unwrap() guest.Conn { return w.Conn }

func TestAs(t *testing.T) {
	wrap := func(c guest.Conn) guest.Conn { return wrapper{plain{c}} }
	for _, tt := range []struct {
		name string
		c    guest.Conn
		want bool
	}{
		{"itself", able{}, true},
		{"wrapped", wrap(able{}), true},
		{"wrapped-twice", wrap(wrap(able{})), true},
		{"another", plain{}, false},
		{"another-wrapped", wrap(plain{}), false},
		{"wrapper-that-hides", plain{able{}}, false},
		{"nothing-wrapped", wrap(nil), false},
		{"nil", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, ok := guest.As[able](tt.c); ok != tt.want {
				t.Errorf("As = %v, want %v", ok, tt.want)
			}
		})
	}
}
