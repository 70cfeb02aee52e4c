package provisioner_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

func TestSpecCheck(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*provisioner.Spec)
		want  string // in the error; empty is none
	}{
		{"good", func(*provisioner.Spec) {}, ""},
		{"no-network", func(s *provisioner.Spec) { s.Network = "" }, ""},
		{"id", func(s *provisioner.Spec) { s.Papers.Sandbox = "../sb" }, `sandbox id "../sb"`},
		{"long-id", func(s *provisioner.Spec) { s.Papers.Sandbox = strings.Repeat("a", 64) }, "sandbox id"},
		{"instance", func(s *provisioner.Spec) { s.Papers.Instance = "other" }, `instance "other"`},
		{"network", func(s *provisioner.Spec) { s.Network = "lan" }, `network "lan": this backend has none and internet`},
		{"little-memory", func(s *provisioner.Spec) { s.MemoryMB = 31 }, "memory 31 MB: the least is 32 MB"},
		{"negative-memory", func(s *provisioner.Spec) { s.MemoryMB = -1 }, "memory -1 MB"},
		{"cores", func(s *provisioner.Spec) { s.Cores = -1 }, "cores -1"},
		{"disk", func(s *provisioner.Spec) { s.DiskMB = -1 }, "disk -1"},
		{"processes", func(s *provisioner.Spec) { s.MaxProcs = -1 }, "processes -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := provisioner.Spec{
				Papers: provisioner.Papers{Sandbox: "sb-1", Instance: "inst-1"}, Network: "internet", MemoryMB: 32,
			}
			tt.spoil(&spec)
			err := spec.Check("inst-1", 32, "none", "internet")
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.want != "" && (!errors.Is(err, provisioner.ErrInvalid) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
