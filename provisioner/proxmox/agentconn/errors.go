package agentconn

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// said maps what the guest's tools print to the errors of package guest. The
// scripts run in the C locale, where these texts are strerror's.
var said = []struct {
	text string
	err  error
}{
	{"No space left on device", guest.ErrNoSpace},
	{"Disk quota exceeded", guest.ErrNoSpace},
	{"Not a directory", guest.ErrNotDir},
	{"Is a directory", guest.ErrIsDir},
	{"not regular", guest.ErrNotRegular},
	{"file changed", guest.ErrChanged},
	{"No such file or directory", fs.ErrNotExist},
	{"Permission denied", fs.ErrPermission},
	{"Operation not permitted", fs.ErrPermission},
	{"Read-only file system", fs.ErrPermission},
}

// scriptError is what a script wrote to standard error when it failed.
func scriptError(text string) error {
	text = strings.TrimSpace(text)
	for _, s := range said {
		if strings.HasSuffix(text, s.text) {
			return s.err
		}
	}
	for _, s := range said {
		if strings.Contains(text, s.text) {
			return s.err
		}
	}
	if text == "" {
		return errors.New("the guest gave no reason")
	}
	return fmt.Errorf("the guest says %.300q", text)
}

// unreachable marks the failure of a call to Proxmox.
func unreachable(err error) error { return fmt.Errorf("%w: %w", guest.ErrUnreachable, err) }
