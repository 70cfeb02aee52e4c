package pve_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// PVE takes the parts of an upload in one order only, the file last, and only
// under the name filename (measured).
func TestUploadPartsAndTheirOrder(t *testing.T) {
	type part struct{ Field, File, Data string }
	var got []part
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		parts, err := r.MultipartReader()
		if err != nil {
			t.Error(err)
			return
		}
		for {
			p, err := parts.NextPart()
			if err != nil {
				break
			}
			data, _ := io.ReadAll(p)
			got = append(got, part{p.FormName(), p.FileName(), string(data)})
		}
		exchange{Status: 200, Reason: "OK", Type: "application/json", Body: `{"data":"UPID:pve:0000119C:000AC3BC:6B04797D:imgcopy::root@pam!mcp:"}`}.write(w)
	})
	id, err := c.Upload(t.Context(), "pve", "local", "iso", pve.File{Name: "seed.iso", Data: []byte("\x00\r\nä\xff")})
	if err != nil || id.Type() != "imgcopy" || id.Node() != "pve" {
		t.Errorf("task %q, %v", id, err)
	}
	if diff := cmp.Diff([]part{{"content", "", "iso"}, {"filename", "seed.iso", "\x00\r\nä\xff"}}, got); diff != "" {
		t.Errorf("parts (-want +sent):\n%s", diff)
	}
}

// A file that was uploaded is listed, is overwritten by another of its name,
// and is gone when it was deleted.
func TestUploadListDelete(t *testing.T) {
	c, ctx := simulate(t, &pvetest.Server{}), t.Context()
	for _, data := range []string{"one", "another"} {
		await(t, c)(c.Upload(ctx, "pve", "local", "iso", pve.File{Name: "seed.iso", Data: []byte(data)}))
		list, err := c.Volumes(ctx, "pve", "local", "iso", 0)
		if err != nil || len(list) != 1 || list[0].ID != "local:iso/seed.iso" || int(list[0].Size) != len(data) {
			t.Errorf("volumes %+v, %v", list, err)
		}
	}
	await(t, c)(c.DeleteVolume(ctx, "pve", "local", "local:iso/seed.iso"))
	if list, err := c.Volumes(ctx, "pve", "local", "iso", 0); err != nil || len(list) > 0 {
		t.Errorf("volumes %+v, %v", list, err)
	}
	var e *pve.Error
	_, err := c.Upload(ctx, "pve", "local", "iso", pve.File{Name: "seed.qcow2"})
	if !errors.As(err, &e) || e.Kind != pve.Parameter || e.Params["filename"] == "" {
		t.Errorf("a name that is none of an ISO: %v", err)
	}
}

func TestPveshUploadsNothing(t *testing.T) {
	p := pve.NewPvesh(noShell{})
	_, err := (&pve.Client{Transport: p}).Upload(t.Context(), "pve", "local", "iso", pve.File{Name: "seed.iso"})
	if !errors.Is(err, pve.NotImplemented) {
		t.Errorf("error %v", err)
	}
}

type noShell struct{}

func (noShell) Run(context.Context, string) (pve.Output, error) {
	panic("nothing is to be run")
}
