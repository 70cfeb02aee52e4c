package proxmox

import (
	"os"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}
