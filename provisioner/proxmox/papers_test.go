package proxmox

import (
	"errors"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Papers prove something only as they were written, on the machine they were
// written for, by this installation.
func TestPapersProveNothingElse(t *testing.T) {
	p := newLab(t, &pvetest.Server{}).provisioner()
	papers, other := testSpec(1).Papers, testSpec(2).Papers
	elsewhere := testSpec(1).Papers
	elsewhere.Instance = "inst-2"
	seal := func(id int, st stage, papers provisioner.Papers) string {
		text, err := p.seal(id, st, papers)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := seal(5001, whole, papers)
	lines := func(text string) []string { return strings.Split(text, "\n") }
	for name, tt := range map[string]struct {
		text string
		ours bool
	}{
		"as-written":       {good, true},
		"other-line-ends":  {strings.ReplaceAll(good, "\n", "\r\n") + "\r\n", true},
		"other-id":         {seal(5002, whole, papers), false},
		"other-instance":   {seal(5001, whole, elsewhere), false},
		"other-stage":      {strings.Replace(good, "\nwhole ", "\ndraft ", 1), false},
		"other-sandbox":    {strings.Replace(good, lines(good)[2], lines(seal(5001, whole, other))[2], 1), false},
		"something-before": {"by hand\n" + good, false},
		"something-after":  {good + "\nby hand", false},
		"no-stamp":         {strings.Join(lines(good)[:3], "\n") + "\nwhole", false},
		"nothing":          {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := p.open(5001, pve.Config{"description": tt.text, "tags": tag})
			if tt.ours && (err != nil || got != papers) || !tt.ours && !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("papers %+v, %v", got, err)
			}
		})
	}
	key := p.Key
	p.Key = provisionertest.Key(t, 2)
	if _, _, err := p.open(5001, pve.Config{"description": good, "tags": tag}); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("under another key: %v", err)
	}
	p.Key = key
	for _, bad := range []string{"", "x", "5001 x", "5001 UPID:pve"} {
		if h, err := parseHandle(bad); !errors.Is(err, provisioner.ErrNotOurs) {
			t.Errorf("handle %q is %+v, %v", bad, h, err)
		}
	}
}

// A change of papers leaves one mark, and the tags that were there.
func TestOneMarkRemains(t *testing.T) {
	p := newLab(t, &pvetest.Server{}).provisioner()
	tags := strings.Split(p.tags([]string{"debian", tag, p.mark("old"), "agentlab-team"}, "new"), ";")
	if want := []string{"debian", "agentlab-team", tag, p.mark("new")}; strings.Join(tags, ";") != strings.Join(want, ";") {
		t.Errorf("tags %q, want %q", tags, want)
	}
}

// The machine that a handle leads to must be the sandbox's.
func TestHandleOfAnotherSandbox(t *testing.T) {
	p := newLab(t, &pvetest.Server{}).provisioner()
	m, _ := makeOne(t, p, 1)
	other, _ := makeOne(t, p, 2)
	ref := provisioner.Ref{Sandbox: m.Sandbox, Handle: other.Handle}
	if conn, err := p.Dial(t.Context(), ref); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("Dial: %v, %v", conn, err)
	}
	if err := p.Relabel(t.Context(), ref, m.Papers); !errors.Is(err, provisioner.ErrNotOurs) {
		t.Errorf("Relabel: %v", err)
	}
}
