package proxmox

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// claimed is the spec by which a machine that was made as testSpec(n) is claimed.
func claimed(n int) provisioner.Spec {
	spec := testSpec(n)
	spec.Hostname, spec.Papers.Owner, spec.Papers.Name, spec.Papers.Keys = "claimed", "local:1001", "mine", 1
	return spec
}

// rekeyed re-keys a machine.
func rekeyed(t *testing.T, p *Provisioner, m provisioner.Machine, spec provisioner.Spec, conn guest.Conn) guest.Conn {
	t.Helper()
	next, err := p.Rekey(t.Context(), m.Ref, spec, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// What a Rekey asks of Proxmox: the config twice, and the guest once.
func TestRekeyCalls(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelAgent)
	p.User = nil
	m := made(t, p, 1)
	conn := dialled(t, p, m)
	if _, err := says(t, conn, "true"); err != nil {
		t.Fatal(err)
	}
	l.onCall(nil)
	rekeyed(t, p, m, claimed(1), conn)
	got := l.counted()
	if got["GET exec-status"] == 0 {
		t.Error("nobody asked how it ended")
	}
	delete(got, "GET exec-status") // as often as it takes
	if diff := cmp.Diff(map[string]int{"GET config": 1, "PUT config": 1, "POST exec": 1}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
