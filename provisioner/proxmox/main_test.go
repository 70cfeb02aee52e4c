package proxmox

import (
	"fmt"
	"os"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// programs is where tests build what goes into guests.
var programs string

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(func() int {
		var err error
		if programs, err = os.MkdirTemp("", "programs"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs)
		return m.Run()
	}())
}
