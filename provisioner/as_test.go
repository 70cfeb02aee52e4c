package provisioner_test

import (
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

type plain struct{ provisioner.Provisioner }

type relabels struct{ plain }

func (relabels) Relabel() string { return "relabelled" }

type wrapper struct{ plain }

func (w wrapper) Unwrap() provisioner.Provisioner { return w.Provisioner }

func TestAs(t *testing.T) {
	type relabeler interface{ Relabel() string }
	able := relabels{}
	wrap := func(p provisioner.Provisioner) provisioner.Provisioner { return wrapper{plain{p}} }
	for _, tt := range []struct {
		name string
		p    provisioner.Provisioner
		want bool
	}{
		{"itself", able, true},
		{"wrapped", wrap(able), true},
		{"wrapped-twice", wrap(wrap(able)), true},
		{"unable", plain{}, false},
		{"unable-wrapped", wrap(plain{}), false},
		{"wrapper-that-hides", plain{able}, false},
		{"nothing-wrapped", wrap(nil), false},
		{"nil", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := provisioner.As[relabeler](tt.p)
			if ok != tt.want || ok && got != relabeler(able) {
				t.Errorf("As = %v, %v, want %v", got, ok, tt.want)
			}
		})
	}
}
