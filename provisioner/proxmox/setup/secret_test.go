package setup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// A token whose secret could not be written is removed, and so is the file.
func TestSecretThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	secret, err := openSecret(path, "agentlab@pve!t1", false)
	if err != nil {
		t.Fatal(err)
	}
	_ = secret.file.Close()
	var calls recorder
	s := Setup{Client: &pve.Client{Transport: &calls}}
	create := func(context.Context, *pve.Client) (redact.String, error) { return "agentlab@pve!t1=s3cret", nil }
	err = s.take(t.Context(), Step{token: true, call: create}, Want{User: "agentlab@pve", Token: "t1"}, secret)
	if err == nil || !strings.Contains(err.Error(), "the token was removed again") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
	if len(calls) != 1 || calls[0] != "pvesh delete /access/users/agentlab@pve/token/t1" {
		t.Errorf("calls %q", calls)
	}
	secret.close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is still there")
	}
}
